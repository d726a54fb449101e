//! A byte difference against joined extents: what becomes of code that was compiled again, where almost every byte is an old one and
//! addresses have moved. The layout of its blob stands in [`mod@crate::format`].

use super::zstd_frame::{Refusal, ZstdDecoder, content_size, decode_with_prefix};
use crate::limits::MAX_STEPS_BYTES;
use crate::varint;

/// What is kept of each section's memory from one difference to the next. A longer one is rare.
const KEPT_BYTES: usize = 256 * 1024;

/// Decodes differences, one after the other. While it does it holds the steps and two halves of an output, at most 2 MiB; after that, 256 KiB
/// of each.
#[derive(Default)]
pub(crate) struct DifferenceDecoder {
    steps: Vec<u8>,
    added: Vec<u8>,
    literal: Vec<u8>,
}

/// One step: a way to go in the source, bytes that differ from those there by as much as the added ones say, then bytes of their own.
struct Step {
    seek: i64,
    add: usize,
    literal: usize,
}

impl DifferenceDecoder {
    /// Makes exactly `out` of `blob` and the bytes it leans on.
    pub(crate) fn decode(&mut self, zstd: &mut ZstdDecoder, blob: &[u8], source: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
        let made = self.make(zstd, blob, source, out);
        for section in [&mut self.steps, &mut self.added, &mut self.literal] {
            section.clear();
            section.shrink_to(KEPT_BYTES);
        }
        made
    }

    fn make(&mut self, zstd: &mut ZstdDecoder, blob: &[u8], source: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
        let mut rest = blob;
        let mut length = |what: &str| varint::take(&mut rest).ok_or_else(|| Refusal::new(what, "a varint", "other bytes"));
        let (steps, added) = (length("length of the steps")?, length("length of the differences")?);
        let (steps, rest) = split(rest, steps, "steps")?;
        let (added, literal) = split(rest, added, "differences")?;

        let steps_len = content_size(steps).map_err(|refusal| refusal.of("steps"))?;
        let steps_len = usize::try_from(steps_len)
            .ok()
            .filter(|length| *length <= MAX_STEPS_BYTES)
            .ok_or_else(|| Refusal::new("steps: zstd content size", format!("at most {MAX_STEPS_BYTES}"), steps_len))?;
        refill("steps", steps, steps_len, &mut self.steps, |frame, to| zstd.decode(frame, to))?;
        let (add, own) = sums(&self.steps, out.len())?;
        refill("differences", added, add, &mut self.added, |frame, to| zstd.decode(frame, to))?;
        refill("new bytes", literal, own, &mut self.literal, |frame, to| decode_with_prefix(frame, source, to))?;
        self.follow(source, out)
    }

    fn follow(&self, source: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
        let (mut steps, mut added, mut literal) = (self.steps.as_slice(), self.added.as_slice(), self.literal.as_slice());
        let (mut at, mut rest) = (0_i64, out);
        while let Some(step) = next_step(&mut steps)? {
            at = at.saturating_add(step.seek);
            let from = usize::try_from(at).ok().and_then(|at| source.get(at..at.checked_add(step.add)?));
            let parts = rest.split_at_mut_checked(step.add).zip(added.split_at_checked(step.add));
            let (Some(from), Some(((to, after), (differ, left)))) = (from, parts) else {
                let expected = format!("a place within the {} bytes that it leans on", source.len());
                return Err(Refusal::new("step", expected, format!("{} bytes from byte {at}", step.add)));
            };
            for ((to, from), differ) in to.iter_mut().zip(from).zip(differ) {
                *to = from.wrapping_add(*differ);
            }
            added = left;
            let parts = after.split_at_mut_checked(step.literal).zip(literal.split_at_checked(step.literal));
            let Some(((to, after), (own, left))) = parts else {
                return Err(Refusal::new("step", "bytes that are there", step.literal));
            };
            to.copy_from_slice(own);
            (rest, literal) = (after, left);
            at = at.saturating_add(i64::try_from(step.add).unwrap_or(i64::MAX));
        }
        Ok(())
    }
}

fn split<'b>(bytes: &'b [u8], length: u64, what: &'static str) -> Result<(&'b [u8], &'b [u8]), Refusal> {
    let at = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
    at.ok_or_else(|| Refusal::new(what, format!("at most {} bytes", bytes.len()), length))
}

/// Decodes a section of this length into `to`; of nothing there is no frame.
fn refill(
    what: &str,
    frame: &[u8],
    length: usize,
    to: &mut Vec<u8>,
    decode: impl FnOnce(&[u8], &mut [u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    to.clear();
    to.reserve_exact(length);
    to.resize(length, 0);
    match (length, frame) {
        (0, []) => Ok(()),
        (0, frame) => Err(Refusal::new(what, "no frame, as it would make nothing", format!("{} bytes", frame.len()))),
        _ => decode(frame, to).map_err(|refusal| refusal.of(what)),
    }
}

/// Bytes that all steps add, and that they bring, which together are the output.
fn sums(mut steps: &[u8], output_len: usize) -> Result<(usize, usize), Refusal> {
    let (mut add, mut literal) = (0_usize, 0_usize);
    while let Some(step) = next_step(&mut steps)? {
        add = add.saturating_add(step.add);
        literal = literal.saturating_add(step.literal);
    }
    let made = add.saturating_add(literal);
    if made == output_len { Ok((add, literal)) } else { Err(Refusal::new("bytes of all steps", output_len, made)) }
}

/// Every step makes something, so there are no more of them than bytes.
fn next_step(steps: &mut &[u8]) -> Result<Option<Step>, Refusal> {
    if steps.is_empty() {
        return Ok(None);
    }
    let mut number = || varint::take(steps);
    let numbers = number().zip(number()).zip(number());
    let step = numbers.and_then(|((seek, add), literal)| {
        let (add, literal) = (usize::try_from(add).ok()?, usize::try_from(literal).ok()?);
        (add > 0 || literal > 0).then(|| Step { seek: varint::unzigzag(seek), add, literal })
    });
    step.map(Some).ok_or_else(|| Refusal::new("step", "three numbers, of which the second or the third is not 0", "other bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zstd::zstd_safe::{CCtx, compress_bound};

    use super::*;

    /// A zstd frame of stored bytes.
    fn frame(content: &[u8]) -> Vec<u8> {
        let mut blob = Vec::with_capacity(compress_bound(content.len()));
        CCtx::create().compress2(&mut blob, content).unwrap();
        blob
    }

    fn blob(steps: &[(i64, u64, u64)], added: &[u8], literal: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        for (seek, add, own) in steps {
            [varint::zigzag(*seek), *add, *own].into_iter().for_each(|number| varint::push(&mut encoded, number));
        }
        let section = |content: &[u8]| if content.is_empty() { Vec::new() } else { frame(content) };
        let (steps, added, literal) = (frame(&encoded), section(added), section(literal));
        let mut blob = Vec::new();
        varint::push(&mut blob, steps.len() as u64);
        varint::push(&mut blob, added.len() as u64);
        [blob, steps, added, literal].concat()
    }

    fn decode(blob: &[u8], source: &[u8], length: usize) -> Result<Vec<u8>, Refusal> {
        let mut out = vec![0xaa; length];
        DifferenceDecoder::default().decode(&mut ZstdDecoder::new().unwrap(), blob, source, &mut out).map(|()| out)
    }

    #[test]
    fn steps_take_change_and_bring_as_the_format_says() {
        let made = decode(&blob(&[(2, 3, 1), (-4, 2, 0), (0, 0, 2)], &[0, 1, 255, 0, 0], b"-!?"), b"abcdefgh", 8).unwrap();
        assert_eq!(made, b"ced-bc!?");
        assert_eq!(
            decode(&blob(&[(1, 0, 1), (-1, 1, 0)], b"\0", b"x"), b"q", 2).unwrap(),
            b"xq",
            "at the end nothing can be taken"
        );
    }

    #[test]
    fn steps_that_do_not_add_up_or_lead_astray_are_refused() {
        let source = b"abcdefgh";
        let refusal = |blob: Vec<u8>, length| decode(&blob, source, length).unwrap_err();
        assert_eq!(refusal(blob(&[(0, 3, 0)], &[0; 3], b""), 4).what, "bytes of all steps");
        assert_eq!(refusal(blob(&[(0, 9, 0)], &[0; 9], b""), 9).what, "step");
        assert_eq!(refusal(blob(&[(-1, 1, 0)], &[0], b""), 1).what, "step");
        assert_eq!(refusal(blob(&[(9, 0, 1)], b"", b"x"), 1).what, "step");
        assert_eq!(refusal(blob(&[(8, 1, 0)], &[0], b""), 1).what, "step");
        assert_eq!(refusal(blob(&[(i64::MAX, 1, 0), (i64::MAX, 1, 0)], &[0; 2], b""), 2).what, "step");
        assert_eq!(refusal(blob(&[(0, 0, 0)], b"", b""), 0).what, "step");
        assert_eq!(refusal(blob(&[(0, u64::MAX, u64::MAX)], b"", b""), 1).what, "bytes of all steps");
        // Sections that are longer or shorter than the steps say, are missing, or are there for nothing.
        assert_eq!(refusal(blob(&[(0, 3, 0)], &[0; 2], b""), 3).what, "differences: zstd content size");
        assert_eq!(refusal(blob(&[(0, 3, 0)], b"", b""), 3).what, "differences: zstd frame");
        assert_eq!(refusal(blob(&[(0, 0, 1)], b"\0", b"x"), 1).what, "differences");
        assert_eq!(refusal([&[200, 1, 0][..], &[0; 9]].concat(), 1).what, "steps");
        assert_eq!(refusal(Vec::new(), 1).what, "length of the steps");
    }

    #[test]
    fn little_memory_is_kept_whatever_became_of_a_difference() {
        let length = 1 << 20;
        let source = vec![0; length];
        let long = |numbers: &[(i64, u64, u64)], add, own| blob(numbers, &vec![1; add], &vec![2; own]);
        let steps = vec![(0, 1, 0); length / 3];
        let cases = [
            (long(&steps, length / 3, 0), length / 3, true),
            (long(&steps, length / 3 - 1, 0), length / 3, false),
            (long(&steps, length / 3, 0), length, false),
            (long(&[(1, length as u64, 0)], length, 0), length, false),
            (long(&[(-1, 0, length as u64)], 0, length), length, false),
            (long(&[(0, 0, length as u64)], 0, length - 1), length, false),
        ];
        let (mut decoder, mut zstd) = (DifferenceDecoder::default(), ZstdDecoder::new().unwrap());
        for (at, (blob, length, is_right)) in cases.into_iter().enumerate() {
            assert_eq!(decoder.decode(&mut zstd, &blob, &source, &mut vec![0; length]).is_ok(), is_right, "case {at}");
            let kept = [&decoder.steps, &decoder.added, &decoder.literal].map(Vec::capacity);
            assert!(kept.iter().all(|bytes| *bytes <= KEPT_BYTES), "case {at}: {kept:?}");
        }
    }

    proptest! {
        #[test]
        fn any_blob_is_refused_or_makes_the_output(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            steps in proptest::collection::vec((any::<i64>(), 0..40_u64, 0..40_u64), 0..5),
            length in 0..300_usize, source in 0..100_usize,
        ) {
            let source = vec![7; source];
            let _ = decode(&bytes, &source, length);
            let _ = decode(&blob(&steps, &bytes, &bytes), &source, length);
            let add: u64 = steps.iter().map(|step| step.1).sum();
            let own: u64 = steps.iter().map(|step| step.2).sum();
            let _ = decode(&blob(&steps, &vec![1; add as usize], &vec![2; own as usize]), &source, (add + own) as usize);
        }
    }
}

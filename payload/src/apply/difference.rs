//! A byte difference against joined extents: what becomes of code that was compiled again, where almost every byte is an old one and
//! addresses have moved. The layout of its blob stands in [`mod@crate::format`].

use super::zstd_frame::{Refusal, ZstdDecoder, content_size, decode_with_prefix};
use crate::limits::MAX_OUTPUT_BYTES;
use crate::varint;

/// Decodes differences, one after the other. It holds room for the steps and for two halves of an output: at most 2 MiB.
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
        let mut rest = blob;
        let mut length = |what| varint::take(&mut rest).ok_or_else(|| Refusal::new(what, "a length", "other bytes"));
        let (steps, added) = (length("length of the steps")?, length("length of the differences")?);
        let (steps, rest) = split(rest, steps, "steps")?;
        let (added, literal) = split(rest, added, "differences")?;

        let steps_len = content_size(steps).filter(|length| *length <= u64::from(MAX_OUTPUT_BYTES));
        let steps_len = steps_len.ok_or_else(|| Refusal::new("steps", format!("at most {MAX_OUTPUT_BYTES} bytes"), "more, or none"))?;
        refill(steps, usize::try_from(steps_len).unwrap_or(0), &mut self.steps, |frame, to| zstd.decode(frame, to))?;
        let (add, own) = sums(&self.steps, out.len())?;
        refill(added, add, &mut self.added, |frame, to| zstd.decode(frame, to))?;
        refill(literal, own, &mut self.literal, |frame, to| decode_with_prefix(frame, source, to))?;
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
                return Err(Refusal::new("step", format!("bytes of the {} it leans on", source.len()), format!("{} from {at}", step.add)));
            };
            for ((to, from), differ) in to.iter_mut().zip(from).zip(differ) {
                *to = from.wrapping_add(*differ);
            }
            added = left;
            let parts = after.split_at_mut_checked(step.literal).zip(literal.split_at_checked(step.literal));
            let Some(((to, after), (own, left))) = parts else { return Err(Refusal::new("step", "bytes that are there", step.literal)) };
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
    frame: &[u8],
    length: usize,
    to: &mut Vec<u8>,
    decode: impl FnOnce(&[u8], &mut [u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    to.resize(length, 0);
    match (length, frame) {
        (0, []) => Ok(()),
        (0, frame) => Err(Refusal::new("difference", "no bytes for nothing", frame.len())),
        _ => decode(frame, to),
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

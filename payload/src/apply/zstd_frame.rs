//! One zstd frame, decoded under our own caps.
//!
//! A one-shot decode writes into the caller's buffer and allocates no window, so a bomb cannot grow memory; what is refused
//! before the decoder runs is any frame that a bounded *streaming* reader could not take either, so that payloads stay readable
//! by all.
//!
//! Frame header as in RFC 8878, section 3.1.1.1: magic, descriptor (flags), window, dictionary id, content size.

use zstd::zstd_safe::{self, DCtx, DParameter};

use crate::error::Error;
use crate::limits::MAX_ZSTD_WINDOW_LOG;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a blob was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, got {got}")]
pub struct Refusal {
    /// What of it.
    pub what: String,
    /// What would be right.
    pub expected: String,
    /// What stands there.
    pub got: String,
}

impl Refusal {
    /// In these words.
    pub fn new(what: impl Into<String>, expected: impl ToString, got: impl ToString) -> Self {
        Self { what: what.into(), expected: expected.to_string(), got: got.to_string() }
    }

    /// The same of a part of what it was said of.
    pub(super) fn of(self, part: &str) -> Self {
        Self { what: format!("{part}: {}", self.what), ..self }
    }
}

/// A decoding context that is used again and again (about 160 KB).
pub(crate) struct ZstdDecoder(DCtx<'static>);

impl ZstdDecoder {
    pub(crate) fn new() -> Result<Self, Error> {
        new_context().map(Self)
    }

    /// Decodes `blob` into exactly `out`.
    pub(crate) fn decode(&mut self, blob: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
        check_frame(blob, out.len())?;
        let length = self.0.decompress(out, blob).map_err(corrupt)?;
        check_length(length, out.len())
    }
}

/// Decodes `blob`, which was made with `prefix` before it, into exactly `out`. The context is made anew, because it borrows the prefix.
pub(crate) fn decode_with_prefix(blob: &[u8], prefix: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
    check_frame(blob, out.len())?;
    let mut context: DCtx<'_> = new_context().map_err(|error| Refusal::new("zstd", "a decoding context", error))?;
    context.ref_prefix(prefix).map_err(corrupt)?;
    let length = context.decompress(out, blob).map_err(corrupt)?;
    check_length(length, out.len())
}

fn new_context<'a>() -> Result<DCtx<'a>, Error> {
    let mut context = DCtx::try_create().ok_or_else(|| Error::codec("cannot allocate a decoding context"))?;
    context.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG)).map_err(|code| Error::codec(name_of(code)))?;
    Ok(context)
}

fn check_length(got: usize, expected: usize) -> Result<(), Refusal> {
    if got == expected { Ok(()) } else { Err(Refusal::new("decoded length", expected, got)) }
}

fn corrupt(code: usize) -> Refusal {
    Refusal::new("zstd frame", "a frame that decodes", name_of(code))
}

pub(crate) fn name_of(code: usize) -> &'static str {
    zstd_safe::get_error_name(code)
}

/// The content size that a frame states.
pub(super) fn content_size(blob: &[u8]) -> Result<u64, Refusal> {
    let size = FrameHeader::parse(blob)?.content_size;
    size.ok_or_else(|| Refusal::new("zstd content size", "a number", "none stated"))
}

/// One frame and nothing behind it, of the right content size, with a window within the cap and without a dictionary.
fn check_frame(blob: &[u8], output_len: usize) -> Result<(), Refusal> {
    let header = FrameHeader::parse(blob)?;
    if header.names_dictionary {
        return Err(Refusal::new("zstd frame", "no dictionary", "a dictionary id"));
    }
    match header.content_size {
        Some(size) if u64::try_from(output_len).is_ok_and(|expected| expected == size) => {}
        Some(size) => return Err(Refusal::new("zstd content size", output_len, size)),
        None => return Err(Refusal::new("zstd content size", output_len, "none stated")),
    }
    if header.window_size > 1 << MAX_ZSTD_WINDOW_LOG {
        let expected = format!("at most {} bytes", 1_u32 << MAX_ZSTD_WINDOW_LOG);
        return Err(Refusal::new("zstd window", expected, header.window_size));
    }
    let length = zstd_safe::find_frame_compressed_size(blob).map_err(corrupt)?;
    if length != blob.len() {
        return Err(Refusal::new("zstd frame", format!("{} bytes, the whole blob", blob.len()), length));
    }
    Ok(())
}

struct FrameHeader {
    names_dictionary: bool,
    content_size: Option<u64>,
    window_size: u64,
}

impl FrameHeader {
    fn parse(blob: &[u8]) -> Result<Self, Refusal> {
        let Some(rest) = blob.strip_prefix(&MAGIC) else {
            return Err(Refusal::new("zstd frame", format!("to begin with {}", hex(&MAGIC)), hex(blob)));
        };
        let Some((descriptor, rest)) = rest.split_first() else {
            return Err(Refusal::new("zstd frame header", "a descriptor", "the end of the frame"));
        };
        if descriptor & 0x08 != 0 {
            return Err(Refusal::new("zstd frame header", "a descriptor whose reserved bit is 0", hex(&[*descriptor])));
        }
        Self::fields(*descriptor, rest).ok_or_else(|| {
            let got = format!("{} bytes in all", blob.len());
            Refusal::new("zstd frame header", format!("all fields of the descriptor {descriptor:02x}"), got)
        })
    }

    /// What stands behind the descriptor; nothing if it is cut.
    fn fields(descriptor: u8, rest: &[u8]) -> Option<Self> {
        let single_segment = descriptor & 0x20 != 0;
        let (window_size, rest) = match (single_segment, rest) {
            (true, rest) => (None, rest),
            (false, [window, rest @ ..]) => (Some(window_size(*window)), rest),
            (false, []) => return None,
        };
        let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 0x03)];
        let size_bytes = match (descriptor >> 6, single_segment) {
            (0, false) => 0,
            (0, true) => 1,
            (1, _) => 2,
            (2, _) => 4,
            _ => 8,
        };
        let size = rest.get(dictionary_bytes..dictionary_bytes + size_bytes)?;
        let content_size = (size_bytes > 0).then(|| little_endian(size) + if size_bytes == 2 { 256 } else { 0 });
        let window_size = window_size.or(content_size)?;
        Some(Self { names_dictionary: dictionary_bytes > 0, content_size, window_size })
    }
}

/// The first bytes, to be shown.
fn hex(bytes: &[u8]) -> String {
    match bytes {
        [] => "no bytes".to_owned(),
        bytes => bytes.iter().take(MAGIC.len()).map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// `2^(10 + exponent)` and as many eighths of it as the mantissa says.
fn window_size(descriptor: u8) -> u64 {
    let base = 1_u64 << (10 + u32::from(descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 0x07)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zstd::zstd_safe::{CCtx, CParameter};

    use super::*;

    fn compressed(content: &[u8], parameters: &[CParameter]) -> Vec<u8> {
        let mut context = CCtx::create();
        parameters.iter().for_each(|parameter| {
            context.set_parameter(*parameter).unwrap();
        });
        let mut blob = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
        context.compress2(&mut blob, content).unwrap();
        blob
    }

    fn refusal(blob: &[u8], output_len: usize) -> String {
        let error = ZstdDecoder::new().unwrap().decode(blob, &mut vec![0; output_len]).unwrap_err();
        format!("{}: expected {}, got {}", error.what, error.expected, error.got)
    }

    #[test]
    fn a_frame_comes_back_with_and_without_a_prefix() {
        let content = crate::testing::disk_like(1, 1 << 20);
        let mut out = vec![0; content.len()];
        ZstdDecoder::new().unwrap().decode(&compressed(&content, &[]), &mut out).unwrap();
        assert!(out == content);

        let prefix = content.clone();
        let mut context = CCtx::create();
        context.ref_prefix(&prefix).unwrap();
        let mut blob = Vec::with_capacity(1 << 21);
        context.compress2(&mut blob, &content).unwrap();
        assert!(blob.len() < 1000, "the prefix must have been used: {} bytes", blob.len());
        out.fill(0);
        decode_with_prefix(&blob, &prefix, &mut out).unwrap();
        assert!(out == content);
        assert!(decode_with_prefix(&blob, &prefix[1..], &mut out).is_err() || out != content);
    }

    #[test]
    fn a_bomb_is_refused_by_its_header_before_it_is_decoded() {
        let bomb = compressed(&vec![0; 64 << 20], &[]);
        assert!(bomb.len() < 10_000);
        assert_eq!(refusal(&bomb, 1 << 20), "zstd content size: expected 1048576, got 67108864");
    }

    #[test]
    fn a_window_above_the_cap_is_refused() {
        let content: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let blob = compressed(&content[..1 << 20], &[]);
        // Magic, descriptor without the single-segment flag, a window of 2^24, four bytes of content size, an empty last block.
        let wide = [&MAGIC[..], &[0x80, (24 - 10) << 3], &1_048_576_u32.to_le_bytes(), &[1, 0, 0]].concat();
        assert_eq!(refusal(&wide, 1 << 20), "zstd window: expected at most 8388608 bytes, got 16777216");
        assert!(FrameHeader::parse(&blob).unwrap().window_size <= 1 << 20);
    }

    #[test]
    fn a_frame_without_size_or_with_another_or_with_company_is_refused() {
        let content = b"testing, testing, testing, testing, testing";
        let blob = compressed(content, &[]);
        assert_eq!(refusal(&blob, 42), "zstd content size: expected 42, got 43");
        assert_eq!(
            refusal(&compressed(content, &[CParameter::ContentSizeFlag(false)]), 43),
            "zstd content size: expected 43, got none stated"
        );
        let twice = [&blob[..], &blob].concat();
        assert!(refusal(&twice, 43).starts_with("zstd frame: expected"), "{}", refusal(&twice, 43));
        let padded = [&blob[..], b"\0"].concat();
        assert!(refusal(&padded, 43).starts_with("zstd frame: expected"), "{}", refusal(&padded, 43));
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], &blob[..]].concat();
        assert_eq!(refusal(&skippable, 43), "zstd frame: expected to begin with 28b52ffd, got 502a4d18");
        assert!(refusal(&blob[..blob.len() - 1], 43).starts_with("zstd frame: expected a frame that decodes"));
        let dictionary = [&MAGIC[..], &[0x21, 7, 43, 1, 0, 0]].concat();
        assert_eq!(refusal(&dictionary, 43), "zstd frame: expected no dictionary, got a dictionary id");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_fill_the_output(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0_usize..70_000) {
            let mut decoder = ZstdDecoder::new().unwrap();
            let _ = decoder.decode(&bytes, &mut vec![0; length]);
            bytes.splice(..0, MAGIC);
            let _ = decoder.decode(&bytes, &mut vec![0; length]);
            let _ = decode_with_prefix(&bytes, &[1; 100], &mut vec![0; length]);
        }
    }
}

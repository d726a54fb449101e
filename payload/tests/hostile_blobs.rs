//! Blobs that no honest maker writes: each is refused in words that say why, and takes no more memory than an honest one.
//!
//! Memory is what the kernel counts, so that what the codec allocates is in it: pages that were touched, and addresses that were taken.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "a test that cannot go on fails")]

use std::sync::Mutex;

use payload::apply::{Blobs as _, Codec, Refusal};
use payload::format::{FrameTable, Header, Kind};
use payload::limits::{MAX_OUTPUT_BYTES, MAX_PREFIX_BYTES, MAX_TABLE_BYTES};
use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::{CCtx, CParameter, compress_bound};

/// What a case may touch beyond what an honest one of the largest size has touched before it.
const MOST_TOUCHED: u64 = 4 << 20;
/// What it may take of addresses: an allocator takes 64 MiB for a thread at once.
const MOST_TAKEN: u64 = 80 << 20;

/// Output of the small cases.
const OUTPUT: usize = 1000;

// ---- A zstd frame by hand: RFC 8878, section 3.1.1. ----

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn raw(bytes: &[u8], last: bool) -> Vec<u8> {
    [&block(0, bytes.len(), last)[..], bytes].concat()
}

fn rle(count: usize, last: bool) -> Vec<u8> {
    [&block(1, count, last)[..], b"r"].concat()
}

fn block(kind: u32, size: usize, last: bool) -> [u8; 3] {
    let [a, b, c, _] = (u32::try_from(size).unwrap() << 3 | kind << 1 | u32::from(last)).to_le_bytes();
    [a, b, c]
}

/// A frame with a window descriptor and four bytes of content size.
fn windowed(descriptor: u8, size: u32, blocks: &[Vec<u8>]) -> Vec<u8> {
    [&MAGIC[..], &[0x80, descriptor], &size.to_le_bytes(), &blocks.concat()].concat()
}

/// A frame in a single segment with four bytes of content size.
fn single(size: usize, blocks: &[Vec<u8>]) -> Vec<u8> {
    [&MAGIC[..], &[0xa0], &u32::try_from(size).unwrap().to_le_bytes(), &blocks.concat()].concat()
}

/// Two gigabytes in 64 KiB: block after block of 128 KiB.
fn bomb() -> Vec<Vec<u8>> {
    (0..16_384).map(|index| rle(128 << 10, index == 16_383)).collect()
}

/// Frames that are wrong by themselves, each with what is said of it. An honest one makes [`OUTPUT`] bytes.
fn frames() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let honest = single(OUTPUT, &[rle(OUTPUT, true)]);
    let with_header = |header: &[u8]| [&MAGIC[..], header, &rle(OUTPUT, true)].concat();
    let twice = |first: &[u8], second: &[u8]| [first, second].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    let checksum = |sum: &[u8]| [&MAGIC[..], &[0xa4], &(OUTPUT as u32).to_le_bytes(), &rle(OUTPUT, true), sum].concat();
    let size = (OUTPUT as u32).to_le_bytes();
    vec![
        ("nothing", vec![], "zstd frame: expected to begin with 28b52ffd, got no bytes"),
        ("one byte", vec![0x28], "zstd frame: expected to begin with 28b52ffd, got 28"),
        ("zstd 0.7", twice(&[0x27], &honest[1..]), "zstd frame: expected to begin with 28b52ffd, got 27b52ffd"),
        ("another codec", b"\x1f\x8b\x08\0\0\0".to_vec(), "zstd frame: expected to begin with 28b52ffd, got 1f8b0800"),
        ("magic alone", MAGIC.to_vec(), "zstd frame header: expected a descriptor, got the end of the frame"),
        ("reserved bit", with_header(&[0xa8]), "zstd frame header: expected a descriptor whose reserved bit is 0, got a8"),
        (
            "cut header",
            [&MAGIC[..], &[0xa0, 1]].concat(),
            "zstd frame header: expected all fields of the descriptor a0, got 6 bytes in all",
        ),
        (
            "no window",
            [&MAGIC[..], &[0x80]].concat(),
            "zstd frame header: expected all fields of the descriptor 80, got 5 bytes in all",
        ),
        (
            "window one above the cap",
            windowed(13 << 3 | 1, 1000, &[rle(OUTPUT, true)]),
            "zstd window: expected at most 8388608 bytes, got 9437184",
        ),
        (
            "window of 2 GiB",
            windowed(21 << 3, 1000, &[rle(OUTPUT, true)]),
            "zstd window: expected at most 8388608 bytes, got 2147483648",
        ),
        (
            "largest window",
            windowed(0xff, 1000, &[rle(OUTPUT, true)]),
            "zstd window: expected at most 8388608 bytes, got 4123168604160",
        ),
        ("no size", with_header(&[0x00, 0x50]), "zstd content size: expected 1000, got none stated"),
        ("size of nothing", single(0, &[rle(OUTPUT, true)]), "zstd content size: expected 1000, got 0"),
        ("size one less", single(999, &[rle(OUTPUT, true)]), "zstd content size: expected 1000, got 999"),
        ("size one more", single(1001, &[rle(OUTPUT, true)]), "zstd content size: expected 1000, got 1001"),
        ("size of 4 GiB", single(u32::MAX as usize, &[rle(OUTPUT, true)]), "zstd content size: expected 1000, got 4294967295"),
        (
            "size of 2^64",
            [&MAGIC[..], &[0xe0], &[0xff; 8], &rle(OUTPUT, true)].concat(),
            "zstd content size: expected 1000, got 18446744073709551615",
        ),
        ("size in two bytes", with_header(&[0x60, 0xe8, 0x03]), "zstd content size: expected 1000, got 1256"),
        ("honest bomb", single(1 << 31, &bomb()), "zstd content size: expected 1000, got 2147483648"),
        ("bomb that lies", single(OUTPUT, &bomb()), "zstd frame: expected a frame that decodes, got "),
        ("bomb with a window", windowed(13 << 3, OUTPUT as u32, &bomb()), "zstd frame: expected a frame that decodes, got "),
        ("makes more by one", single(OUTPUT, &[rle(OUTPUT + 1, true)]), "zstd frame: expected a frame that decodes, got "),
        (
            "makes more in a second block",
            single(OUTPUT, &[rle(OUTPUT, false), rle(1, true)]),
            "zstd frame: expected a frame that decodes, got ",
        ),
        ("makes less by one", single(OUTPUT, &[rle(OUTPUT - 1, true)]), "zstd frame: expected a frame that decodes, got "),
        ("makes nothing", single(OUTPUT, &[raw(b"", true)]), "zstd frame: expected a frame that decodes, got "),
        (
            "a block larger than blocks are",
            single(OUTPUT, &[rle((1 << 21) - 1, true)]),
            "zstd frame: expected a frame that decodes, got ",
        ),
        (
            "a reserved kind of block",
            single(OUTPUT, &[block(3, 1, true).to_vec()]),
            "zstd frame: expected a frame that decodes, got ",
        ),
        (
            "a compressed block of nothing",
            single(OUTPUT, &[block(2, 0, true).to_vec()]),
            "zstd frame: expected a frame that decodes, got ",
        ),
        (
            "a compressed block of noise",
            single(OUTPUT, &[[&block(2, 40, true)[..], &[0x9d; 40]].concat()]),
            "zstd frame: expected a frame that decodes, got ",
        ),
        ("no last block", single(OUTPUT, &[rle(OUTPUT, false)]), "zstd frame: expected a frame that decodes, got "),
        ("no block", single(OUTPUT, &[]), "zstd frame: expected a frame that decodes, got "),
        ("cut", honest[..honest.len() - 1].to_vec(), "zstd frame: expected a frame that decodes, got "),
        ("a byte behind", twice(&honest, b"\0"), "zstd frame: expected 14 bytes, the whole blob, got 13"),
        ("two frames", twice(&honest, &honest), "zstd frame: expected 26 bytes, the whole blob, got 13"),
        ("a skippable frame before", twice(&skippable, &honest), "zstd frame: expected to begin with 28b52ffd, got 502a4d18"),
        ("a skippable frame behind", twice(&honest, &skippable), "zstd frame: expected 25 bytes, the whole blob, got 13"),
        ("a skippable frame alone", skippable.clone(), "zstd frame: expected to begin with 28b52ffd, got 502a4d18"),
        ("a checksum of something else", checksum(&[1, 2, 3, 4]), "zstd frame: expected a frame that decodes, got "),
        ("no checksum where one is due", checksum(&[]), "zstd frame: expected a frame that decodes, got "),
        (
            "dictionary 7",
            with_header(&[&[0xa1, 7][..], &size].concat()),
            "zstd frame: expected no dictionary, got a dictionary id",
        ),
        (
            "dictionary 0",
            with_header(&[&[0xa1, 0][..], &size].concat()),
            "zstd frame: expected no dictionary, got a dictionary id",
        ),
        (
            "dictionary of two bytes",
            with_header(&[&[0xa2, 7, 0][..], &size].concat()),
            "zstd frame: expected no dictionary, got a dictionary id",
        ),
        (
            "dictionary of four bytes",
            with_header(&[&[0xa3, 7, 0, 0, 0][..], &size].concat()),
            "zstd frame: expected no dictionary, got a dictionary id",
        ),
    ]
}

// ---- A difference by hand. ----

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Way to go, bytes to take, bytes that are new; each as it stands on disk.
fn steps(steps: &[[u64; 3]]) -> Vec<u8> {
    steps.iter().flatten().flat_map(|number| varint(*number)).collect()
}

/// A frame of these bytes, stored.
fn stored(bytes: &[u8]) -> Vec<u8> {
    if bytes.is_empty() { Vec::new() } else { single(bytes.len(), &[raw(bytes, true)]) }
}

fn joined(steps: &[u8], added: &[u8], literal: &[u8]) -> Vec<u8> {
    [&varint(steps.len() as u64), &varint(added.len() as u64), steps, added, literal].concat()
}

/// A difference whose sections are as long as `add` and `new` say.
fn difference(numbers: &[[u64; 3]], add: usize, new: usize) -> Vec<u8> {
    joined(&stored(&steps(numbers)), &stored(&vec![1; add]), &stored(&vec![2; new]))
}

/// What a step may go back: zigzag.
const fn back(by: u64) -> u64 {
    2 * by - 1
}

/// Differences that are wrong, each with what is said of it. They lean on 100 bytes and make [`OUTPUT`].
fn differences() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = stored(&steps(&[[0, 100, 900]]));
    let (added, literal) = (stored(&[1; 100]), stored(&[2; 900]));
    let longest =
        [&MAGIC[..], &[0xa0], &(1_u32 << 20).to_le_bytes(), &(0..8).flat_map(|n| rle(128 << 10, n == 7)).collect::<Vec<_>>()]
            .concat();
    let many = (MAX_OUTPUT_BYTES + 1) as usize;
    let of_lengths = |first: &[u8], second: &[u8]| [first, second, &good, &added, &literal].concat();
    let three = "step: expected three numbers, of which the second or the third is not 0, got other bytes";
    let made = "bytes of all steps: expected 1000, got ";
    let place = "step: expected a place within the 100 bytes that it leans on, got ";
    vec![
        ("nothing", vec![], "length of the steps: expected a varint, got other bytes"),
        ("a length without an end", vec![0x80; 11], "length of the steps: expected a varint, got other bytes"),
        ("a padded length", of_lengths(&[0x81, 0], &[0]), "length of the steps: expected a varint, got other bytes"),
        ("one length", vec![5], "length of the differences: expected a varint, got other bytes"),
        ("steps longer than the blob", of_lengths(&varint(2000), &varint(1)), "steps: expected at most 1040 bytes, got 2000"),
        (
            "steps of 2^64",
            of_lengths(&varint(u64::MAX), &varint(1)),
            "steps: expected at most 1040 bytes, got 18446744073709551615",
        ),
        ("no steps", of_lengths(&[0], &varint(1)), "steps: zstd frame: expected to begin with 28b52ffd, got no bytes"),
        (
            "differences longer than the blob",
            of_lengths(&varint(good.len() as u64), &varint(2000)),
            "differences: expected at most 1024 bytes, got 2000",
        ),
        (
            "differences of 2^64",
            of_lengths(&varint(good.len() as u64), &varint(u64::MAX)),
            "differences: expected at most 1024 bytes, got 18446744073709551615",
        ),
        (
            "both of 2^63",
            of_lengths(&varint(1 << 63), &varint(1 << 63)),
            "steps: expected at most 1040 bytes, got 9223372036854775808",
        ),
        (
            "steps that end early",
            of_lengths(&varint(good.len() as u64 - 1), &varint(109)),
            "steps: zstd frame: expected a frame that decodes, got ",
        ),
        (
            "steps of a bomb",
            joined(&single(1 << 31, &bomb()), &added, &literal),
            "steps: zstd content size: expected at most 1048576, got 2147483648",
        ),
        (
            "steps of a bomb that lies",
            joined(&single(5, &bomb()), &added, &literal),
            "steps: zstd frame: expected a frame that decodes, got ",
        ),
        (
            "steps one byte above the cap",
            joined(&single(many, &[rle(OUTPUT, true)]), &added, &literal),
            "steps: zstd content size: expected at most 1048576, got 1048577",
        ),
        ("as many steps as there may be, all of them wrong", joined(&longest, &added, &literal), three),
        (
            "steps without a size",
            joined(&[&MAGIC[..], &[0, 0x50], &rle(3, true)].concat(), &added, &literal),
            "steps: zstd content size: expected a number, got none stated",
        ),
        (
            "steps with a large window",
            joined(&windowed(14 << 3, 4, &[raw(&steps(&[[0, 100, 900]]), true)]), &added, &literal),
            "steps: zstd window: expected at most 8388608 bytes, got 16777216",
        ),
        (
            "steps with a dictionary",
            joined(&[&MAGIC[..], &[0x21, 7, 3], &raw(&[0; 3], true)].concat(), &added, &literal),
            "steps: zstd frame: expected no dictionary, got a dictionary id",
        ),
        (
            "differences of a bomb",
            joined(&good, &single(100, &bomb()), &literal),
            "differences: zstd frame: expected a frame that decodes, got ",
        ),
        (
            "differences of another size",
            joined(&good, &stored(&[1; 99]), &literal),
            "differences: zstd content size: expected 100, got 99",
        ),
        (
            "no differences",
            joined(&good, &[], &literal),
            "differences: zstd frame: expected to begin with 28b52ffd, got no bytes",
        ),
        (
            "differences for nothing",
            joined(&stored(&steps(&[[0, 0, 1000]])), &added, &stored(&[2; 1000])),
            "differences: expected no frame, as it would make nothing, got 112 bytes",
        ),
        (
            "new bytes of a bomb",
            joined(&good, &added, &single(900, &bomb())),
            "new bytes: zstd frame: expected a frame that decodes, got ",
        ),
        (
            "new bytes of another size",
            joined(&good, &added, &stored(&[2; 901])),
            "new bytes: zstd content size: expected 900, got 901",
        ),
        ("no new bytes", joined(&good, &added, &[]), "new bytes: zstd frame: expected to begin with 28b52ffd, got no bytes"),
        (
            "bytes behind the new ones",
            [joined(&good, &added, &literal), vec![0]].concat(),
            "new bytes: zstd frame: expected 913 bytes, the whole blob, got 912",
        ),
        ("a step that is cut", joined(&stored(&[0, 100, 0x84, 0x07, 0]), &added, &literal), three),
        ("a step that makes nothing", difference(&[[0, 100, 900], [0, 0, 0]], 100, 900), three),
        ("a padded number in a step", joined(&stored(&[0x80, 0, 100, 0x84, 0x07]), &added, &literal), three),
        ("a step that takes less than all", difference(&[[0, 100, 899]], 100, 899), "bytes of all steps: expected 1000, got 999"),
        (
            "a step that takes more than all",
            difference(&[[0, 100, 901]], 100, 901),
            "bytes of all steps: expected 1000, got 1001",
        ),
        ("a step that takes 2^64", difference(&[[0, u64::MAX, 1]], 1, 1), made),
        ("steps that come round to what is expected", difference(&[[0, u64::MAX, 0], [0, 1001, 0]], 1, 1), made),
        ("new bytes that come round", difference(&[[0, 0, 1 << 63], [0, 0, 1 << 63], [0, 0, 1000]], 1, 1), made),
        ("takes beyond the source", difference(&[[0, 101, 899]], 101, 899), place_of("101 bytes from byte 0")),
        ("begins behind the source", difference(&[[2 * 101, 0, 1000]], 0, 1000), place_of("0 bytes from byte 101")),
        ("begins before the source", difference(&[[back(1), 1, 999]], 1, 999), place_of("1 bytes from byte -1")),
        ("goes back too far", difference(&[[0, 100, 0], [back(101), 1, 899]], 101, 899), place_of("1 bytes from byte -1")),
        ("goes on too far", difference(&[[0, 100, 0], [2, 0, 900]], 100, 900), place_of("0 bytes from byte 101")),
        ("goes as far as numbers go", difference(&[[u64::MAX - 1, 1, 999]], 1, 999), place),
        ("goes back as far as numbers go", difference(&[[u64::MAX, 1, 999]], 1, 999), place),
        ("goes further than numbers go", difference(&[[0, 100, 0], [u64::MAX - 1, 1, 899]], 101, 899), place),
    ]
}

/// What is said of a place outside of the 100 bytes that a case leans on.
fn place_of(got: &str) -> &'static str {
    format!("step: expected a place within the 100 bytes that it leans on, got {got}").leak()
}

// ---- Memory, as the kernel counts it. ----

/// One test at a time: what is counted is the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// The most pages that were touched at once, and the most addresses that were taken, in bytes.
struct Peak {
    touched: u64,
    taken: u64,
}

impl Peak {
    /// Forgets what was touched before, where the kernel lets us: otherwise the test is less sharp.
    fn forget() {
        let _forgotten = std::fs::write("/proc/self/clear_refs", "5");
    }

    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
        };
        Self { touched: field("VmHWM:"), taken: field("VmPeak:") }
    }

    fn assert_no_more(&self, name: &str) {
        let now = Self::now();
        let (touched, taken) = (now.touched - self.touched, now.taken - self.taken);
        assert!(touched <= MOST_TOUCHED && taken <= MOST_TAKEN, "{name}: {touched} bytes touched, {taken} taken");
    }
}

/// Decodes into the middle of a larger buffer: what lies around must stay as it is.
fn decode(codec: &mut Codec, kind: Kind, blob: &[u8], leans_on: &[u8], length: usize) -> Result<Vec<u8>, Refusal> {
    const GUARD: usize = 64 << 10;
    let mut buffer = vec![0xa5; length + 2 * GUARD];
    let outcome = codec.decode(kind, blob, leans_on, &mut buffer[GUARD..GUARD + length]);
    let (before, rest) = buffer.split_at(GUARD);
    let (out, behind) = rest.split_at(length);
    assert!(before.iter().chain(behind).all(|byte| *byte == 0xa5), "bytes around the output were written");
    outcome.map(|()| out.to_vec())
}

/// The most that honest blobs take: the longest output, the longest prefix, the most steps.
fn largest(codec: &mut Codec) {
    let output = MAX_OUTPUT_BYTES as usize;
    let leans_on = vec![7; usize::try_from(MAX_PREFIX_BYTES).unwrap()];
    let content: Vec<u8> = (0..output).map(|n| ((n * n) >> 7) as u8).collect();
    let blocks: Vec<_> = content.chunks(128 << 10).map(|chunk| raw(chunk, false)).chain([raw(b"", true)]).collect();
    let blob = single(output, &blocks);
    assert!(decode(codec, Kind::Zstd, &blob, &[], output).unwrap() == content);
    assert!(decode(codec, Kind::ZstdPrefix, &blob, &leans_on, output).unwrap() == content);
    let most = output / 3;
    let numbers = vec![[0, 1, 0]; most];
    let all = steps(&numbers);
    let stored = |bytes: &[u8]| {
        let blocks: Vec<_> = bytes.chunks(128 << 10).map(|chunk| raw(chunk, false)).chain([raw(b"", true)]).collect();
        single(bytes.len(), &blocks)
    };
    let blob = joined(&stored(&all), &stored(&vec![1; most]), &[]);
    assert!(decode(codec, Kind::Difference, &blob, &leans_on, most).unwrap().iter().all(|byte| *byte == 8));
}

#[test]
fn a_hostile_blob_is_refused_in_words_and_takes_no_more_memory_than_an_honest_one() {
    let _alone = ALONE.lock();
    let mut codec = Codec::new().unwrap();
    let (frames, differences) = (frames(), differences());
    Peak::forget();
    largest(&mut codec);
    let before = Peak::now();
    let leans_on = [9; 100];
    let kinds = [(Kind::Zstd, &frames), (Kind::ZstdPrefix, &frames), (Kind::Difference, &differences)];
    for (kind, cases) in kinds {
        for (name, blob, expected) in cases {
            let words = decode(&mut codec, kind, blob, &leans_on, OUTPUT).unwrap_err().to_string();
            assert!(words.starts_with(expected), "{name}, {kind}: {words}");
            assert!(words.contains(": expected ") && words.contains(", got ") && words.len() < 200, "{name}: {words}");
            before.assert_no_more(name);
        }
    }
    // It decodes what is honest as if nothing had been.
    largest(&mut codec);
    before.assert_no_more("honest ones again");
}

#[test]
fn odd_blobs_that_the_format_allows_are_decoded() {
    let _alone = ALONE.lock();
    let mut codec = Codec::new().unwrap();
    let size = OUTPUT as u32;
    let half = || [rle(OUTPUT / 2, false), rle(OUTPUT / 2, true)];
    let cases = [
        ("the largest window", windowed(13 << 3, size, &half())),
        ("the smallest window", windowed(0, size, &half())),
        ("the unused bit of the descriptor", [&MAGIC[..], &[0xb0], &size.to_le_bytes(), &rle(OUTPUT, true)].concat()),
        ("a size in eight bytes", [&MAGIC[..], &[0xe0], &u64::from(size).to_le_bytes(), &rle(OUTPUT, true)].concat()),
        ("blocks of nothing", single(OUTPUT, &[raw(b"", false), rle(OUTPUT, false), raw(b"", false), raw(b"", true)])),
    ];
    for (name, blob) in cases {
        for kind in [Kind::Zstd, Kind::ZstdPrefix] {
            assert_eq!(
                decode(&mut codec, kind, &blob, &[1; 50], OUTPUT).map_err(|error| error.to_string()),
                Ok(vec![b'r'; OUTPUT]),
                "{name}"
            );
        }
    }
    let mut zstd = CCtx::create();
    zstd.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
    let mut blob = Vec::with_capacity(compress_bound(OUTPUT));
    zstd.compress2(&mut blob, &[b'r'; OUTPUT]).unwrap();
    assert!(decode(&mut codec, Kind::Zstd, &blob, &[], OUTPUT).is_ok());
    *blob.last_mut().unwrap() ^= 1;
    let words = decode(&mut codec, Kind::Zstd, &blob, &[], OUTPUT).unwrap_err().to_string();
    assert!(words.ends_with("got Restored data doesn't match checksum"), "{words}");
    // What it leans on is bytes, also where they look like a dictionary or a frame.
    for front in [[0x37, 0xa4, 0x30, 0xec], MAGIC] {
        let leans_on = [
            &front[..],
            &(0..100_000_u32).map(|n| (n.wrapping_mul(n).wrapping_mul(0x9e37_79b1) >> 13) as u8).collect::<Vec<_>>(),
        ]
        .concat();
        let mut zstd = CCtx::create();
        zstd.set_parameter(CParameter::WindowLog(18)).unwrap();
        zstd.ref_prefix(&leans_on).unwrap();
        let mut blob = Vec::with_capacity(compress_bound(leans_on.len()));
        // From memory of its own: of what lies over its prefix the codec finds nothing.
        zstd.compress2(&mut blob, &leans_on.clone()).unwrap();
        assert!(blob.len() < 300, "{}", blob.len());
        assert_eq!(decode(&mut codec, Kind::ZstdPrefix, &blob, &leans_on, leans_on.len()).unwrap(), leans_on);
    }
    // At the end of what it leans on nothing can be taken, and no way leads on.
    let at_the_end = difference(&[[200, 0, 900], [back(100), 100, 0]], 100, 900);
    assert_eq!(decode(&mut codec, Kind::Difference, &at_the_end, &[9; 100], OUTPUT).unwrap()[900..], [10; 100]);
}

#[test]
fn a_codec_says_what_it_does_not_decode_and_what_it_was_not_given() {
    let _alone = ALONE.lock();
    let mut codec = Codec::new().unwrap();
    for kind in [Kind::Zero, Kind::Raw, Kind::Copy, Kind::Unknown(200)] {
        let words = decode(&mut codec, kind, b"", b"", 10).unwrap_err().to_string();
        assert_eq!(words, format!("kind of frame: expected one with a codec, got {kind}"));
    }
    codec.lean_on(0, &[1; 10]).unwrap();
    let words = payload::apply::Blobs::decode(&mut codec, Kind::ZstdPrefix, b"", 11, &mut [0; 10]).unwrap_err().to_string();
    assert_eq!(words, "bytes to lean on: expected 11, got 10");
}

// ---- Frame tables. ----

/// One image with as many windows as there may be.
fn largest_image() -> Vec<u8> {
    [&[1, 4][..], b"root\0", &(128_u64 << 30).to_le_bytes(), &(1_u32 << 20).to_le_bytes(), &[0; 32]].concat()
}

/// Parses the table under a header that was made for it; its blobs are so long.
fn parse(table: Vec<u8>, blobs: u64) -> Result<FrameTable, String> {
    let mut header = b"OTAPAYLD\x01\0\0\0\0\0\0\0".to_vec();
    header.extend((table.len() as u64).to_le_bytes());
    header.extend((64 + table.len() as u64 + blobs).to_le_bytes());
    header.extend(Sha256::digest(&table));
    let header = Header::parse(&header).map_err(|error| error.to_string())?;
    FrameTable::parse_unbound(header, table).map_err(|error| error.to_string())
}

#[test]
fn a_frame_table_takes_no_more_memory_than_the_longest_one_whatever_it_claims() {
    let _alone = ALONE.lock();
    let windows = 131_072;
    let most = MAX_TABLE_BYTES as usize;
    let frames = |count: u64, frames: Vec<u8>| [largest_image(), vec![0], varint(count), frames].concat();
    // The most frames, and one with the most extents that a table has room for, of a kind that nobody knows.
    let zeros = frames(windows, [0, 1, 0, 0].repeat(windows as usize));
    let extents = |of: usize| [vec![200, 1, 0, 0x80, 4], [&[0, 1, 1][..], &[0, 2, 1].repeat(511)].concat()].concat().repeat(of);
    let leaning = frames(5000, [vec![0, 1, 0, 0], extents(4999)].concat());
    Peak::forget();
    assert!(parse(zeros.clone(), 0).is_ok_and(|table| u64::from(table.len()) == windows));
    let longest = [zeros, vec![0; most]].concat()[..most].to_vec();
    assert_eq!(parse(longest, 0).unwrap_err(), "frame table: expected no bytes after the last frame, got 7864265");
    let before = Peak::now();
    let cases = [
        (varint(u64::MAX), most, "number of images: expected 1 to 16, got 18446744073709551615"),
        (vec![16], most, "image 0: name: expected 1 to 64 printable ASCII characters without blanks, got 0 bytes"),
        (
            [&[16][..], &largest_image()[1..].repeat(16)].concat(),
            most,
            "windows of all images: expected at most 131072, got 2097152",
        ),
        (
            [largest_image(), varint(u64::MAX)].concat(),
            most,
            "number of source images: expected 0 to 16, got 18446744073709551615",
        ),
        (frames(u64::MAX, vec![]), most, "number of frames: expected at most 131072 (the windows of all images) and "),
        (frames(windows + 1, vec![]), most, "number of frames: expected at most 131072 (the windows of all images) and "),
        (
            frames(windows, vec![0; 4 * 131_072 - 1]),
            0,
            "number of frames: expected at most 131072 (the windows of all images) and 131071 (the bytes left)",
        ),
        (frames(windows, vec![]), most, "frame 0 (from window 0 of image 0): windows: expected 1 to 131072, got 0"),
        (
            frames(windows, [vec![2, 1], varint(u64::MAX)].concat()),
            most,
            "frame 0 (from window 0 of image 0): blob: expected at most 1114112 bytes",
        ),
        (
            frames(windows, [vec![200, 1, 0], varint(u64::MAX)].concat()),
            most,
            "frame 0 (from window 0 of image 0): extents: expected at most 512",
        ),
        (
            leaning,
            0,
            "frame 1 (window 1 of image \"root\"): extent: expected 1 or more bytes below byte 1048576 of the image itself",
        ),
    ];
    for (table, at_least, expected) in cases {
        let mut table = table;
        table.reserve_exact(at_least.saturating_sub(table.len()));
        table.resize(table.len().max(at_least), 0);
        let words = parse(table, 0).unwrap_err();
        assert!(words.starts_with(expected), "{words}");
        before.assert_no_more(expected);
    }
}

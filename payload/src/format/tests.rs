use std::sync::LazyLock;

use manifests::limits::MAX_WINDOWS;
use proptest::prelude::*;

use super::*;
use crate::build::Built;
use crate::error::Error;
use crate::limits::{MAX_EXTENTS, MAX_OUTPUT_BYTES, MAX_PREFIX_BYTES, MAX_TABLE_BYTES};
use crate::testing::{self, WINDOW, by_hand, disk_like, entry, full, options, record, reseal};

/// Three windows, the last one short.
const SIZE: usize = 2 * WINDOW + 1000;

fn image() -> Vec<u8> {
    disk_like(1, SIZE)
}

fn frame(kind: Kind, first_window: u64, windows: u32, blob_len: u64) -> NewFrame {
    NewFrame { kind, output_offset: first_window * WINDOW as u64, windows, blob_len, extents: vec![] }
}

fn leaning(kind: Kind, blob_len: u64, extents: Vec<Extent>) -> Vec<NewFrame> {
    vec![frame(Kind::Zero, 0, 1, 0), NewFrame { extents, ..frame(kind, 1, 2, blob_len) }]
}

fn extent(source: Source, offset: u64, length: u64) -> Extent {
    Extent { source, offset, length }
}

fn encode(frames: &[NewFrame]) -> Result<FrameTable, Error> {
    let image = |name: &str, size| ImageEntry {
        name: name.into(),
        slot: None,
        size,
        window_size: WINDOW as u32,
        table_sha256: manifests::digest::Sha256Digest::of(name.as_bytes()),
    };
    let (root, old) = (image("root", SIZE as u64), image("old", 3 * WINDOW as u64));
    encode_payload_front(&[root], &[old], frames).map(|(_, table)| table)
}

fn refusal(frames: &[NewFrame]) -> String {
    encode(frames).unwrap_err().to_string()
}

fn read(payload: &[u8]) -> Result<FrameTable, Error> {
    FrameTable::read(&payload, payload.len() as u64, &record(&[("root", &image())]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_on_disk_never_change() {
    let image = [vec![0; WINDOW], vec![9; 5]].concat();
    let extents = vec![extent(Source::Target, 0, 3), extent(Source::Image(0), 2, 4)];
    let frames =
        vec![(frame(Kind::Zero, 0, 1, 0), vec![]), (NewFrame { extents, ..frame(Kind::ZstdPrefix, 1, 1, 0) }, vec![7; 2])];
    let payload = by_hand(&[entry("root", &image)], &[entry("old", &image)], frames);

    let windows = "164bcf9528c428724e6fda5fdcbcf88b6d8482b523eb1d7bc67158d338560912";
    let table = [
        "01", // one image
        "04726f6f74",
        "00",
        "0500040000000000",
        "00000400",
        windows, // "root", either slot, 262149 bytes, windows of 256 KiB
        "01",    // one source image
        "036f6c64",
        "00",
        "0500040000000000",
        "00000400",
        windows,
        "02", // two frames
        "00",
        "01",
        "00",
        "00", // zero, 1 window, no blob, no extents
        "04",
        "01",
        "02",
        "02", // zstd with prefix, 1 window, 2 bytes of blob, 2 extents
        "00",
        "ffff1f",
        "03", // the image itself, 262144 before the frame, 3 bytes
        "01",
        "01",
        "04", // source image 1, 1 before the end of the last extent, 4 bytes
    ]
    .concat();
    let header = ["4f54415041594c44", "01000000", "00000000", "7600000000000000", "b800000000000000"].concat();
    assert_eq!(hex(&payload[..32]), header);
    assert_eq!(hex(&payload[64..]), table + "0707");
    assert_eq!(hex(&payload[32..64]), hex(manifests::digest::Sha256Digest::of(&payload[64..64 + 0x76]).as_bytes()));
}

#[test]
fn a_table_finds_the_frame_of_every_window() {
    let second = vec![5; WINDOW + 1];
    let (bytes, _) = full(&[("root", &image()), ("boot", &second)], &options(1, 2));
    let table = FrameTable::read(&bytes, bytes.len() as u64, &record(&[("root", &image()), ("boot", &second)])).unwrap();
    assert_eq!(table.len(), 3);
    let frames: Vec<_> =
        table.frames().map(|frame| (frame.image(), frame.windows(), frame.image_offset(), frame.output_len())).collect();
    let two = 2 * WINDOW;
    assert_eq!(frames, [(0, 0..2, 0, two), (0, 2..3, two as u64, 1000), (1, 0..2, 0, WINDOW + 1)]);
    let owner = |image, window| table.frame_of(image, window).map(|frame| frame.index());
    assert_eq!([owner(0, 0), owner(0, 1), owner(0, 2), owner(1, 0), owner(1, 1)], [Some(0), Some(0), Some(1), Some(2), Some(2)]);
    assert_eq!([owner(0, 3), owner(1, 2), owner(2, 0), owner(usize::MAX, 0)], [None; 4]);
    assert_eq!(table.frames_of(1).map(|frame| frame.index()).collect::<Vec<_>>(), [2]);
    assert_eq!(table.frames_of(2).count() + table.frames_of(usize::MAX).count(), 0);
    assert!(table.frame(3).is_none());
}

#[test]
fn blobs_lie_without_gaps_from_the_table_to_the_end() {
    let (bytes, built) = full(&[("root", &image())], &options(1, 1));
    let mut next = built.table.header().table_range().end;
    for frame in built.table.frames() {
        assert_eq!(frame.blob().start, next);
        next = frame.blob().end;
    }
    assert_eq!(next, bytes.len() as u64);
}

#[test]
fn extents_come_back_as_they_were_written() {
    let extents =
        vec![extent(Source::Image(0), 3 * WINDOW as u64 - 1, 1), extent(Source::Target, 5, 100), extent(Source::Image(0), 0, 7)];
    let table = encode(&leaning(Kind::ZstdPrefix, 1, extents.clone())).unwrap();
    assert_eq!(table.frame(1).unwrap().extents().collect::<Vec<_>>(), extents);
    assert_eq!(table.frame(0).unwrap().extents().count(), 0);
}

#[test]
fn windows_that_do_not_add_up_are_refused() {
    let cases = [
        (vec![frame(Kind::Zero, 0, 3, 0)], None),
        (vec![frame(Kind::Zero, 0, 2, 0)], Some("number of frames: expected a frame for every window, got 1, too few")),
        (vec![frame(Kind::Zero, 0, 4, 0)], Some("frame 0 (from window 0 of image 0): windows: expected 1 to 3, got 4")),
        (vec![frame(Kind::Zero, 0, 0, 0); 2], Some("frame 0 (from window 0 of image 0): windows: expected 1 to 3, got 0")),
        (vec![frame(Kind::Zero, 0, 3, 0), frame(Kind::Zero, 3, 1, 0)], Some("number of frames: expected 1, got 2")),
        (vec![frame(Kind::Zero, 0, 1, 0); 4], Some("number of frames: expected at most 3 (the windows of all images)")),
        (vec![frame(Kind::Zero, 0, u32::MAX, 0)], Some("windows: expected 1 to 3, got 4294967295")),
    ];
    for (frames, expected) in cases {
        match expected {
            None => assert!(encode(&frames).is_ok()),
            Some(expected) => assert!(refusal(&frames).contains(expected), "{}", refusal(&frames)),
        }
    }
}

#[test]
fn a_frame_makes_at_most_1_mib() {
    let large = vec![0; 5 * WINDOW];
    let encode = |frames: &[NewFrame]| encode_payload_front(&[entry("root", &large)], &[], frames).map(|_| ());
    assert!(encode(&[frame(Kind::Zero, 0, 4, 0), frame(Kind::Zero, 4, 1, 0)]).is_ok());
    let error = encode(&[frame(Kind::Zero, 0, 5, 0)]).unwrap_err().to_string();
    assert!(error.contains(&format!("output: expected at most {MAX_OUTPUT_BYTES} bytes, got 5 windows")), "{error}");
}

#[test]
fn blobs_have_the_shape_of_their_kind() {
    let whole = SIZE as u64;
    let cases = [
        (frame(Kind::Raw, 0, 3, whole), None),
        (frame(Kind::Raw, 0, 3, whole - 1), Some("kind 1 (raw): expected a blob as long as its output and no extents")),
        (frame(Kind::Zero, 0, 3, 1), Some("kind 0 (zero): expected no blob and no extents")),
        (frame(Kind::Zstd, 0, 3, 0), Some("kind 2 (zstd): expected a blob and no extents")),
        (frame(Kind::Zstd, 0, 3, whole + 65_536), None),
        (frame(Kind::Zstd, 0, 3, whole + 65_537), Some("blob: expected at most")),
        (frame(Kind::Zstd, 0, 3, u64::MAX), Some("blob: expected at most")),
        (frame(Kind::Copy, 0, 3, 0), Some("kind 3 (copy): expected no blob and extents as long as its output")),
        (frame(Kind::ZstdPrefix, 0, 3, 9), Some("kind 4 (zstd with prefix): expected a blob and extents")),
        (frame(Kind::Difference, 0, 3, 9), Some("kind 5 (difference): expected a blob and extents")),
        (frame(Kind::Unknown(200), 0, 3, 9), None),
    ];
    for (frame, expected) in cases {
        match expected {
            None => assert!(encode(&[frame]).is_ok()),
            Some(expected) => {
                let error = refusal(&[frame]);
                assert!(error.contains(expected), "{error}");
            }
        }
    }
}

#[test]
fn extents_stay_inside_their_source_and_below_their_frame() {
    let old = 3 * WINDOW as u64;
    let first = WINDOW as u64;
    let cases = [
        (extent(Source::Image(0), 0, old), None),
        (extent(Source::Image(0), 1, old), Some("below byte 786432 of source image 1 (\"old\"), got 786432 at byte 1")),
        (extent(Source::Image(0), old, 1), Some("below byte 786432")),
        (extent(Source::Image(0), 0, 0), Some("extent: expected 1 or more bytes")),
        (
            extent(Source::Image(1), 0, 1),
            Some("source of an extent: expected 0 (the image itself) to 1 (the last source image), got 2"),
        ),
        (extent(Source::Image(254), 0, 1), Some("source of an extent")),
        (extent(Source::Target, 0, first), None),
        (extent(Source::Target, 1, first), Some("below byte 262144 of the image itself")),
        (extent(Source::Target, first, 1), Some("below byte 262144 of the image itself")),
        (extent(Source::Image(0), u64::MAX, 1), Some("extent: expected bytes from 0 to 2^64, got 1 at byte -1")),
        (
            extent(Source::Image(0), 1 << 62, u64::MAX),
            Some("extent: expected bytes from 0 to 2^64, got 18446744073709551615 at byte"),
        ),
    ];
    for (extent, expected) in cases {
        let frames = leaning(Kind::ZstdPrefix, 1, vec![extent]);
        match expected {
            None => assert!(encode(&frames).is_ok(), "{extent:?}: {}", refusal(&frames)),
            Some(expected) => assert!(refusal(&frames).contains(expected), "{extent:?}: {}", refusal(&frames)),
        }
    }
}

#[test]
fn too_many_extents_or_too_long_ones_are_refused() {
    let one = extent(Source::Image(0), 0, 1);
    let most = usize::from(MAX_EXTENTS);
    assert!(encode(&leaning(Kind::ZstdPrefix, 1, vec![one; most])).is_ok());
    let many = refusal(&leaning(Kind::ZstdPrefix, 1, vec![one; most + 1]));
    assert!(many.ends_with("extents: expected at most 512, got 513"), "{many}");
    let half = extent(Source::Image(0), 0, 512 * 1024);
    assert_eq!(MAX_PREFIX_BYTES, 8 * half.length);
    assert!(encode(&leaning(Kind::ZstdPrefix, 1, vec![half; 8])).is_ok());
    let long = refusal(&leaning(Kind::ZstdPrefix, 1, vec![half; 9]));
    assert!(long.ends_with("bytes of all extents: expected at most 4194304, got 4718592"), "{long}");
}

#[test]
fn images_have_names_sizes_and_standard_windows() {
    type Change<'a> = &'a dyn Fn(&mut ImageEntry);
    let cases: [(&str, Change<'_>); 7] = [
        ("image 0: name", &|image| image.name = String::new()),
        ("image 0: name", &|image| image.name = "n".repeat(65)),
        ("image 0: name", &|image| image.name = "\u{1b}[2J".into()),
        ("image 0: size", &|image| image.size = 0),
        ("image 0: window size", &|image| image.window_size = 4096),
        ("image 0: window size", &|image| image.window_size = 1024 * 1024),
        ("windows of all images", &|image| {
            image.size = (MAX_WINDOWS + 1) << 20;
            image.window_size = 1024 * 1024;
        }),
    ];
    for (expected, change) in cases {
        let mut changed = entry("root", &image());
        change(&mut changed);
        let error = encode_payload_front(&[changed], &[], &[frame(Kind::Zero, 0, 3, 0)]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{expected}: {error}");
    }
    for count in [0, 17] {
        let images = vec![entry("root", &image()); count];
        let error = encode_payload_front(&images, &[], &[]).unwrap_err().to_string();
        assert!(error.starts_with("number of images: expected 1 to 16, got"), "{error}");
    }
}

#[test]
fn a_payload_for_another_release_is_refused_by_name() {
    let (payload, _) = full(&[("root", &image())], &options(1, 4));
    assert!(read(&payload).is_ok());
    let against = |images: &[(&str, &[u8])]| {
        let error = FrameTable::read(&payload, payload.len() as u64, &record(images)).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }));
        error.to_string()
    };
    let mut other = image();
    other[0] ^= 1;
    assert!(against(&[("root", &other)]).contains("sha256 of the window table of image \"root\""));
    assert!(against(&[("boot", &image())]).contains("image: expected \"boot\" as in the record, got \"root\""));
    assert!(against(&[("root", &image()[1..])]).contains("size of image \"root\": expected 525287"));
    assert!(against(&[("root", &image()), ("boot", &image())]).contains("number of images: expected 2 as in the record, got 1"));
}

#[test]
fn a_header_alone_tells_the_publishers_payload_from_another() {
    let (payload, built) = full(&[("root", &image())], &options(1, 4));
    let header = Header::parse(&payload[..64]).unwrap();
    assert!(header.require(built.table.header().table_sha256()).is_ok());
    assert!(matches!(header.require(record(&[("root", &image())]).images[0].table.sha256()), Err(Error::Foreign { .. })));
}

#[test]
fn what_is_no_payload_says_so() {
    let (payload, _) = full(&[("root", &image())], &options(1, 4));
    let message = |bytes: &[u8]| Header::parse(bytes).unwrap_err().to_string();
    assert_eq!(message(b""), "not a payload: expected the magic \"OTAPAYLD\" at byte 0, got an empty file");
    assert!(message(b"OTARECv1\x09\0\0").ends_with("got a file that begins with \"OTARECv1\""));
    assert!(message(b"<html>").ends_with("got a web page or other XML"));
    assert!(message(&payload[..63]).contains("header is 63 bytes long, expected 64"));
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = payload[..64].to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        message(&changed)
    };
    assert_eq!(with(8, &[2]), "payload format version 2: this build reads version 1 only");
    assert_eq!(with(12, &[1]), "header: reserved: expected 0, got 1");
    for length in [0, u64::from(MAX_TABLE_BYTES) + 1, u64::MAX] {
        assert!(with(16, &length.to_le_bytes()).starts_with("header: length of the frame table: expected 1 to 8388608"));
    }
    assert!(with(24, &100_u64.to_le_bytes()).starts_with("header: length of the payload: expected at least"));
}

#[test]
fn a_cut_or_padded_payload_is_refused() {
    let (payload, built) = full(&[("root", &image())], &options(1, 4));
    let end = built.table.header().table_range().end as usize;
    let record = record(&[("root", &image())]);
    let read = |payload: &[u8]| FrameTable::read(&payload, payload.len() as u64, &record);
    for length in (0..end + 10).chain((end..payload.len()).step_by(4099)).chain([payload.len() - 1]) {
        assert!(read(&payload[..length]).is_err(), "cut at {length} passed");
    }
    let error = read(&[&payload[..], b"x"].concat()).unwrap_err().to_string();
    assert!(error.contains("it was cut or something was appended"), "{error}");
}

#[test]
fn a_padded_table_is_refused_even_when_its_digest_fits() {
    let (payload, built) = full(&[("root", &image())], &options(1, 4));
    let end = built.table.header().table_range().end as usize;
    let mut longer = [&payload[..end], b"\0", &payload[end..]].concat();
    longer[16..24].copy_from_slice(&(end as u64 - 63).to_le_bytes());
    longer[24..32].copy_from_slice(&(payload.len() as u64 + 1).to_le_bytes());
    assert!(matches!(read(&longer), Err(Error::TableDigest { .. })));
    reseal(&mut longer);
    assert_eq!(read(&longer).unwrap_err().to_string(), "frame table: expected no bytes after the last frame, got 1");
}

#[test]
fn a_table_says_how_its_bytes_are_made() {
    let image = [vec![0; WINDOW], testing::Dice::new(1).bytes(WINDOW), b"text ".repeat(WINDOW / 5)].concat();
    let (_, built) = full(&[("root", &image)], &options(1, 1));
    let totals = built.table.totals();
    let window = WINDOW as u64;
    assert_eq!(totals[&Kind::Zero], KindTotals { frames: 1, windows: 1, output_bytes: window, blob_bytes: 0 });
    assert_eq!(totals[&Kind::Raw], KindTotals { frames: 1, windows: 1, output_bytes: window, blob_bytes: window });
    assert_eq!(totals[&Kind::Zstd].output_bytes, image.len() as u64 - 2 * window);
    assert!(totals[&Kind::Zstd].blob_bytes < 1000);
}

/// Whatever was accepted obeys the format's promises to its users.
pub(super) fn assert_sound(table: &FrameTable) {
    let mut next_blob = table.header().table_range().end;
    for (index, image) in table.images().iter().enumerate() {
        let mut next_window = 0;
        for frame in table.frames_of(index) {
            assert_eq!(frame.windows().start, next_window);
            assert_eq!(frame.blob().start, next_blob);
            assert!(frame.output_len() > 0 && frame.output_len() <= MAX_OUTPUT_BYTES as usize);
            assert!(frame.extents().map(|extent| extent.length).sum::<u64>() <= MAX_PREFIX_BYTES);
            // So no frame leans on itself, on a later one, or in a circle.
            assert!(frame.needs().all(|windows| windows.start < windows.end && windows.end <= next_window));
            for extent in frame.extents() {
                assert!(extent.length > 0);
                let limit = match extent.source {
                    Source::Target => frame.image_offset(),
                    Source::Image(source) => table.sources()[usize::from(source)].size,
                };
                assert!(extent.offset.checked_add(extent.length).unwrap() <= limit);
            }
            (next_window, next_blob) = (frame.windows().end, frame.blob().end);
        }
        assert_eq!(u64::from(next_window), image.window_count());
    }
    assert_eq!(next_blob, table.header().total_len());
}

fn any_frame() -> impl Strategy<Value = NewFrame> {
    let extent = (0_u8..4, 0_u64..900_000, 0_u64..600_000).prop_map(|(source, offset, length)| Extent {
        source: if source == 0 { Source::Target } else { Source::Image(source / 2) },
        offset,
        length,
    });
    let blob_len = prop_oneof![Just(0), Just(WINDOW as u64), 0_u64..2_000_000, any::<u64>()];
    (0_u8..8, 0_u64..4, 0_u32..5, blob_len, proptest::collection::vec(extent, 0..4)).prop_map(
        |(kind, window, windows, blob_len, extents)| NewFrame {
            kind: Kind::from_number(kind),
            output_offset: window * WINDOW as u64,
            windows,
            blob_len,
            extents,
        },
    )
}

proptest! {
    #[test]
    fn any_header_is_refused_or_within_the_caps(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), lengths in any::<[u64; 2]>()) {
        let _ = Header::parse(&bytes);
        if bytes.len() >= 64 {
            bytes[..16].copy_from_slice(b"OTAPAYLD\x01\0\0\0\0\0\0\0");
            let _ = Header::parse(&bytes);
            bytes[16..24].copy_from_slice(&(lengths[0] >> 40).to_le_bytes());
            bytes[24..32].copy_from_slice(&lengths[1].to_le_bytes());
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.table_range().end - 64 <= u64::from(MAX_TABLE_BYTES));
                prop_assert!(header.total_len() >= header.table_range().end);
            }
        }
    }

    #[test]
    fn any_table_of_any_frames_is_refused_or_sound(frames in proptest::collection::vec(any_frame(), 0..5)) {
        if let Ok(table) = encode(&frames) {
            assert_sound(&table);
        }
    }

    #[test]
    fn any_bytes_as_a_table_are_refused_or_sound(bytes in proptest::collection::vec(any::<u8>(), 1..300), at in 0_usize..300) {
        static HONEST: LazyLock<(Vec<u8>, Built)> = LazyLock::new(|| full(&[("root", &vec![0; 3 * WINDOW])], &options(1, 1)));
        let (payload, built) = &*HONEST;
        let end = built.table.header().table_range().end as usize;
        let mut changed = payload[..end].to_vec();
        for (place, byte) in changed[64..].iter_mut().skip(at % (end - 64)).zip(&bytes) {
            *place = *byte;
        }
        reseal(&mut changed);
        for table in [&changed[64..], &bytes] {
            let total = payload.len().max(64 + table.len()) as u64;
            let header = Header::new(table.len() as u64, total, manifests::digest::Sha256Digest::of(table)).unwrap();
            if let Ok(table) = FrameTable::parse_unbound(header, table.to_vec()) {
                assert_sound(&table);
            }
        }
    }
}

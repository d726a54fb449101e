//! Every field of header and frame table with values that no honest maker writes. What became of each stands in `hostile.txt`.

use std::fmt::Write as _;
use std::io;
use std::sync::Mutex;

use manifests::digest::Sha256Digest;
use manifests::limits::{MAX_IMAGES, MAX_NAME_CHARS, MAX_WINDOWS};

use super::tests::assert_sound;
use super::*;
use crate::error::Error;
use crate::limits::{HEADER_BYTES, MAX_BLOB_EXCESS_BYTES, MAX_EXTENTS, MAX_PREFIX_BYTES, MAX_TABLE_BYTES};
use crate::testing::WINDOW;
use crate::varint::{push, zigzag};
use crate::window::ReadAt;

/// A field as it stands on disk.
#[derive(Clone, Debug)]
enum Value {
    Bytes(Vec<u8>),
    /// So many bytes, little endian.
    Fixed(usize, u64),
    Varint(u64),
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    value: Value,
    /// Where it has its limit, whatever that is.
    caps: Vec<u64>,
}

/// The front of a payload, field by field.
#[derive(Clone)]
struct Front {
    fields: Vec<Field>,
}

/// Places of the header's fields.
const TABLE_LEN: usize = 3;
const TOTAL_LEN: usize = 4;
const DIGEST: usize = 5;
const HEADER_FIELDS: usize = 6;

impl Front {
    fn add(&mut self, name: impl Into<String>, value: Value, caps: &[u64]) {
        self.fields.push(Field { name: name.into(), value, caps: caps.to_vec() });
    }

    /// Two images, of which one fits slot a only, made by a frame of each kind, and a source image.
    fn honest() -> Self {
        let mut front = Self { fields: Vec::new() };
        front.add("header: magic", Value::Bytes(b"OTAPAYLD".to_vec()), &[]);
        front.add("header: format version", Value::Fixed(4, 1), &[]);
        front.add("header: reserved", Value::Fixed(4, 0), &[]);
        front.add("header: length of the frame table", Value::Fixed(8, 0), &[u64::from(MAX_TABLE_BYTES)]);
        front.add("header: length of the payload", Value::Fixed(8, 0), &[]);
        front.add("header: sha256 of the frame table", Value::Bytes(vec![0; 32]), &[]);
        front.add("number of images", Value::Varint(2), &[MAX_IMAGES as u64]);
        front.add_image("image 0", "root", 0, ROOT_BYTES);
        front.add_image("image 1", "boot", 1, BOOT_BYTES);
        front.add("number of source images", Value::Varint(1), &[MAX_IMAGES as u64]);
        front.add_image("source image 1", "old", 0, OLD_BYTES);
        front.add("number of frames", Value::Varint(6), &[]);
        let window = WINDOW as u64;
        front.add_frame(0, Kind::Zero, window, 0, 0, &[]);
        front.add_frame(1, Kind::Raw, window, window, window, &[]);
        front.add_frame(2, Kind::Zstd, window, 2 * window, 500, &[]);
        let (own, old) = (Source::Target, Source::Image(0));
        let copied = [Extent { source: own, offset: 7, length: 400 }, Extent { source: old, offset: 0, length: window - 400 }];
        front.add_frame(3, Kind::Copy, window, 3 * window, 0, &copied);
        front.add_frame(4, Kind::ZstdPrefix, 1000, 4 * window, 300, &[Extent { source: own, offset: window, length: 5 }]);
        front.add_frame(5, Kind::Difference, BOOT_BYTES, 0, 40, &[Extent { source: old, offset: 9, length: 100 }]);
        front.mend(usize::MAX);
        front
    }

    fn add_image(&mut self, what: &str, name: &str, slot: u64, size: u64) {
        let name_bytes = name.as_bytes().to_vec();
        self.add(format!("{what}: length of its name"), Value::Fixed(1, name.len() as u64), &[MAX_NAME_CHARS as u64]);
        self.add(format!("{what}: name"), Value::Bytes(name_bytes), &[]);
        self.add(format!("{what}: slot"), Value::Fixed(1, slot), &[2]);
        // The most that windows of either size can hold, and the size from which on they are large.
        self.add(format!("{what}: size"), Value::Fixed(8, size), &[16 << 30, MAX_WINDOWS << 20]);
        self.add(format!("{what}: window size"), Value::Fixed(4, WINDOW as u64), &[1 << 20]);
        self.add(format!("{what}: sha256 of its window table"), Value::Bytes(vec![name.len() as u8; 32]), &[]);
    }

    fn add_frame(&mut self, index: u32, kind: Kind, output_len: u64, offset: u64, blob: u64, extents: &[Extent]) {
        let what = format!("frame {index}");
        self.add(format!("{what}: kind"), Value::Fixed(1, u64::from(kind.number())), &[5]);
        self.add(format!("{what}: windows"), Value::Varint(1), &[5, MAX_WINDOWS]);
        let most = output_len + u64::from(MAX_BLOB_EXCESS_BYTES);
        self.add(format!("{what}: length of its blob"), Value::Varint(blob), &[most]);
        self.add(format!("{what}: number of extents"), Value::Varint(extents.len() as u64), &[u64::from(MAX_EXTENTS)]);
        let mut expected = offset;
        for (index, extent) in extents.iter().enumerate() {
            let (number, limit) = match extent.source {
                Source::Target => (0, offset),
                Source::Image(source) => (u64::from(source) + 1, OLD_BYTES),
            };
            let at = |place: u64| zigzag((place.wrapping_sub(expected)).cast_signed());
            self.add(format!("{what}: extent {index}: source"), Value::Varint(number), &[MAX_IMAGES as u64, 255]);
            // From the first byte of the source, one below it, the last place, one above that, and the frame itself.
            let places = [0, u64::MAX, limit - extent.length, limit - extent.length + 1, offset].map(at);
            self.add(format!("{what}: extent {index}: offset"), Value::Varint(at(extent.offset)), &places);
            let most = [limit - extent.offset, MAX_PREFIX_BYTES];
            self.add(format!("{what}: extent {index}: length"), Value::Varint(extent.length), &most);
            expected = extent.offset + extent.length;
        }
    }

    fn number(&self, at: usize) -> u64 {
        match self.fields[at].value {
            Value::Fixed(_, number) | Value::Varint(number) => number,
            Value::Bytes(_) => 0,
        }
    }

    /// Makes the header fit the table again, but for the field at `kept`.
    fn mend(&mut self, kept: usize) {
        if kept != TABLE_LEN {
            self.fields[TABLE_LEN].value = Value::Fixed(8, self.table().len() as u64);
        }
        if kept != TOTAL_LEN {
            let is_blob = |field: &&Field| field.name.ends_with("length of its blob");
            let blobs = self.fields.iter().filter(is_blob).filter_map(|field| match field.value {
                Value::Varint(number) => Some(number),
                _ => None,
            });
            let total = blobs.fold(self.number(TABLE_LEN).saturating_add(HEADER_BYTES as u64), u64::saturating_add);
            self.fields[TOTAL_LEN].value = Value::Fixed(8, total);
        }
        if kept != DIGEST {
            let mut table = self.table();
            table.resize(self.number(TABLE_LEN).min(u64::from(MAX_TABLE_BYTES)) as usize, 0);
            self.fields[DIGEST].value = Value::Bytes(Sha256Digest::of(&table).as_bytes().to_vec());
        }
    }

    fn table(&self) -> Vec<u8> {
        bytes_of(&self.fields[HEADER_FIELDS..])
    }

    fn read(&self) -> Result<FrameTable, Error> {
        let file = Claimed { front: bytes_of(&self.fields), reads: Mutex::default() };
        FrameTable::read_unbound(&file, self.number(TOTAL_LEN))
    }
}

const ROOT_BYTES: u64 = 4 * WINDOW as u64 + 1000;
const BOOT_BYTES: u64 = 5000;
const OLD_BYTES: u64 = 3 * WINDOW as u64 + 1;

fn bytes_of(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        match &field.value {
            Value::Bytes(own) => bytes.extend(own),
            Value::Fixed(width, number) => bytes.extend(&number.to_le_bytes()[..*width]),
            Value::Varint(number) => push(&mut bytes, *number),
        }
    }
    bytes
}

/// A file as long as anybody likes: behind its front are zeros. Its reads are written down.
struct Claimed {
    front: Vec<u8>,
    reads: Mutex<Vec<(u64, usize)>>,
}

impl ReadAt for Claimed {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.lock().unwrap().push((offset, buffer.len()));
        for (place, byte) in (offset as usize..).zip(buffer) {
            *byte = self.front.get(place).copied().unwrap_or(0);
        }
        Ok(())
    }
}

/// What to put in the place of a field, each with a name.
fn hostile(field: &Field) -> Vec<(String, Value)> {
    let numbers = |truth: u64, max: u64, make: &dyn Fn(u64) -> Value| {
        let around = [truth.wrapping_sub(1), truth.saturating_add(1)];
        let caps = field.caps.iter().flat_map(|cap| [*cap, cap.saturating_add(1)]);
        let fixed = [0, 1, max - 1, max].into_iter().chain(around).chain(caps);
        let mut numbers: Vec<u64> = fixed.filter(|number| *number <= max && *number != truth).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| (number.to_string(), make(number))).collect::<Vec<_>>()
    };
    match &field.value {
        Value::Fixed(width, truth) => {
            let width = *width;
            numbers(*truth, u64::MAX >> (64 - 8 * width), &|number| Value::Fixed(width, number))
        }
        Value::Varint(truth) => {
            let mut values = numbers(*truth, u64::MAX, &Value::Varint);
            values.push(("u32::MAX".to_owned(), Value::Varint(u64::from(u32::MAX))));
            let mut padded = Vec::new();
            push(&mut padded, *truth | 1 << 63);
            padded.last_mut().into_iter().for_each(|last| *last = 0);
            values.push(("padded".to_owned(), Value::Bytes(padded)));
            values.push(("65 bits".to_owned(), Value::Bytes([&[0xff; 9][..], &[2]].concat())));
            values
        }
        Value::Bytes(truth) => {
            let changed = |name: &str, change: &dyn Fn(u8) -> u8| {
                (name.to_owned(), Value::Bytes(truth.iter().map(|byte| change(*byte)).collect()))
            };
            let mut values = vec![
                changed("zeros", &|_| 0),
                changed("ones", &|_| 0xff),
                changed("first bit", &|byte| byte ^ 1),
                changed("blanks", &|_| b' '),
                changed("escape", &|_| 0x1b),
            ];
            // Digests are bytes of any value.
            values.truncate(if truth.len() == 32 { 1 } else { values.len() });
            values
        }
    }
}

/// A refusal says what, what would be right and what is there, in a line that a terminal can show.
fn assert_clear(error: &Error) -> String {
    let words = error.to_string();
    let (expected, got) = (words.find("expected "), words.find(", got "));
    let is_clear = match error {
        Error::FormatVersion { .. } => words.contains("this build reads version 1 only"),
        Error::Read { .. } => words.contains("cannot read"),
        Error::Length { .. } => words.contains("bytes long, expected "),
        _ => expected.zip(got).is_some_and(|(expected, got)| 0 < expected && expected < got),
    };
    assert!(is_clear, "unclear: {words}");
    assert!(words.len() < 400 && !words.chars().any(char::is_control), "not for a terminal: {words:?}");
    words
}

/// The front that a maker would write who means what `table` says.
fn spelled(table: &FrameTable) -> Vec<u8> {
    let frame = |frame: Frame<'_>| NewFrame {
        kind: frame.kind(),
        output_offset: frame.image_offset(),
        windows: frame.windows().len() as u32,
        blob_len: frame.blob().end - frame.blob().start,
        extents: frame.extents().collect(),
    };
    let frames: Vec<_> = table.frames().map(frame).collect();
    encode_payload_front(table.images(), table.sources(), &frames).unwrap().0
}

#[test]
fn every_field_at_its_extremes_is_refused_by_name_or_means_what_it_says() {
    let honest = Front::honest();
    assert_sound(&honest.read().unwrap());
    let (mut listing, mut refused) = (String::new(), 0);
    for (at, field) in honest.fields.iter().enumerate() {
        for (name, value) in hostile(field) {
            let mut changed = honest.clone();
            changed.fields[at].value = value;
            changed.mend(at);
            let words = match changed.read() {
                Err(error) => {
                    refused += 1;
                    assert_clear(&error)
                }
                Ok(table) => {
                    assert_sound(&table);
                    assert!(spelled(&table) == bytes_of(&changed.fields), "{} = {name} is read as something else", field.name);
                    "sound".to_owned()
                }
            };
            writeln!(listing, "{} = {name}: {words}", field.name).unwrap();
        }
    }
    assert!(refused > 300, "{refused}");
    if listing != include_str!("hostile.txt") {
        println!("{listing}");
        panic!("it is not as hostile.txt has it; all of it stands above");
    }
}

/// A table of frames that make a window each, of which one leans on this extent.
fn leaning(frame: usize, extent: Extent) -> Result<FrameTable, Error> {
    let image = vec![1; 4 * WINDOW];
    let of = |index: usize| NewFrame {
        kind: if index == frame { Kind::ZstdPrefix } else { Kind::Zero },
        output_offset: (index * WINDOW) as u64,
        windows: 1,
        blob_len: u64::from(index == frame),
        extents: if index == frame { vec![extent] } else { vec![] },
    };
    let frames: Vec<_> = (0..4).map(of).collect();
    encode_payload_front(&[crate::testing::entry("root", &image)], &[], &frames).map(|(_, table)| table)
}

#[test]
fn a_frame_can_lean_on_those_below_it_and_neither_on_itself_nor_above() {
    let window = WINDOW as u64;
    for frame in 0..4_usize {
        let own = frame as u64 * window;
        for target in 0..4_u64 {
            for (offset, length) in [(target * window, 1), (target * window, window), ((target + 1) * window - 1, 1)] {
                let outcome = leaning(frame, Extent { source: Source::Target, offset, length });
                if offset + length <= own {
                    let needs: Vec<_> = outcome.unwrap().frame(frame as u32).unwrap().needs().flatten().collect();
                    assert_eq!(needs, [target as u32]);
                    continue;
                }
                let words = assert_clear(&outcome.unwrap_err());
                let name = format!("frame {frame} (window {frame} of image \"root\"): extent: ");
                let rest =
                    format!("expected 1 or more bytes below byte {own} of the image itself, got {length} at byte {offset}");
                assert_eq!(words, name + &rest);
            }
        }
        // The last byte below it and its own first one.
        if frame > 0 {
            let across = leaning(frame, Extent { source: Source::Target, offset: own - 1, length: 2 });
            assert_clear(&across.unwrap_err());
        }
    }
}

#[test]
fn extents_may_lie_over_each_other_and_are_joined_as_they_stand() {
    let extent = |offset, length| Extent { source: Source::Image(0), offset, length };
    let extents = vec![extent(0, 100), extent(50, 100), extent(0, 100), extent(149, 1)];
    let image = vec![1; WINDOW];
    let entry = crate::testing::entry("root", &image);
    let frame = NewFrame { kind: Kind::ZstdPrefix, output_offset: 0, windows: 1, blob_len: 1, extents: extents.clone() };
    let (_, table) = encode_payload_front(std::slice::from_ref(&entry), std::slice::from_ref(&entry), &[frame]).unwrap();
    assert_sound(&table);
    assert_eq!(table.frame(0).unwrap().extents().collect::<Vec<_>>(), extents);
}

#[test]
fn a_table_above_the_cap_is_refused_by_the_header_alone() {
    for (length, reads) in [(MAX_TABLE_BYTES + 1, 1), (u32::MAX, 1), (MAX_TABLE_BYTES, 2)] {
        let mut front = Front::honest();
        front.fields[TABLE_LEN].value = Value::Fixed(8, u64::from(length));
        front.mend(TABLE_LEN);
        let file = Claimed { front: bytes_of(&front.fields), reads: Mutex::default() };
        let error = FrameTable::read_unbound(&file, front.number(TOTAL_LEN)).unwrap_err();
        assert_clear(&error);
        let done = file.reads.into_inner().unwrap();
        assert_eq!((done.len(), done[0]), (reads, (0, HEADER_BYTES)), "{length}: {error}");
    }
}

/// A whole payload of one small image, with its blobs.
fn small() -> Vec<u8> {
    let image = b"a small image, a small image, a small image".repeat(3);
    crate::testing::full(&[("root", &image)], &crate::testing::options(1, 1)).0
}

fn read(payload: &[u8]) -> Result<FrameTable, Error> {
    FrameTable::read_unbound(&payload, payload.len() as u64)
}

#[test]
fn a_payload_that_was_cut_anywhere_or_grew_says_how_long_it_should_be() {
    let payload = small();
    assert_sound(&read(&payload).unwrap());
    for length in 0..payload.len() {
        let words = assert_clear(&read(&payload[..length]).unwrap_err());
        let expected = match length {
            0..8 => "not a payload: expected the magic".to_owned(),
            8..64 => format!("the payload's header is {length} bytes long, expected 64: "),
            _ => format!("the payload is {length} bytes long, expected {}: ", payload.len()),
        };
        assert!(words.starts_with(&expected), "cut at {length}: {words}");
    }
    for more in [1, 64, 4096] {
        let words = assert_clear(&read(&[&payload[..], &vec![0; more]].concat()).unwrap_err());
        assert!(words.starts_with(&format!("the payload is {} bytes long, expected {}: ", payload.len() + more, payload.len())));
    }
}

#[test]
fn a_table_that_was_cut_anywhere_under_a_header_that_fits_says_what_is_missing() {
    let honest = Front::honest();
    let table = honest.table();
    for length in 1..table.len() {
        let mut front = Front { fields: honest.fields[..HEADER_FIELDS].to_vec() };
        front.add("table", Value::Bytes(table[..length].to_vec()), &[]);
        front.mend(usize::MAX);
        let words = assert_clear(&front.read().unwrap_err());
        let names_a_place = words.contains(" of the frame table, got ") || words.contains("number of frames: expected at most 6");
        assert!(names_a_place, "cut at {length}: {words}");
    }
}

#[test]
fn a_file_that_says_it_is_longer_than_it_is_cannot_be_read_and_says_where() {
    let payload = small();
    let front = &payload[..70];
    let error = FrameTable::read_unbound(&front, payload.len() as u64).unwrap_err();
    assert!(error.to_string().starts_with("payload: cannot read ") && error.to_string().ends_with(" at byte 64"), "{error}");
    let error = FrameTable::read_unbound(&&payload[..10], payload.len() as u64).unwrap_err();
    assert_eq!(error.to_string(), "payload: cannot read 64 bytes at byte 0");
}

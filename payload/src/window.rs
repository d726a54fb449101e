//! Windows: hashing those of an image, sets of them, and the one door through which a payload's output leaves.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;

use manifests::digest::Sha256Digest;
use manifests::limits::MAX_WINDOWS;
use manifests::release::{Record, Release, WindowTable};

use crate::error::Error;
use crate::parallel;

/// Bytes that can be read at any place, by several threads at once: a file, a block device, a slice.
pub trait ReadAt: Sync {
    /// Fills `buffer` from the bytes at `offset`; fewer bytes than that are an error.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(buffer.len())?));
        let found = range.and_then(|range| self.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        ReadAt::read_exact_at(self.as_slice(), buffer, offset)
    }
}

/// Hashes all windows of an image of `size` bytes, on `threads` threads, with one window in memory for each.
pub fn table_of(name: &str, image: &dyn ReadAt, size: u64, threads: NonZeroUsize) -> Result<WindowTable, Error> {
    let window_size = WindowTable::standard_window_size(size);
    let count = checked_count(name, size)?;
    let mut digests = Vec::new();
    parallel::ordered(
        count,
        threads,
        || Ok(Vec::new()),
        |buffer: &mut Vec<u8>, index| {
            let offset = index * u64::from(window_size);
            read_piece(name, image, offset, size.saturating_sub(offset).min(u64::from(window_size)), buffer)?;
            Ok(Sha256Digest::of_window(buffer))
        },
        |_, digest| {
            digests.push(digest);
            Ok(())
        },
    )?;
    WindowTable::new(size, digests).map_err(|error| Error::field(format!("image {name:?}"), "a size within the limits", error))
}

/// Windows of an image of `size` bytes; refuses an empty one and one that no record could describe.
pub(crate) fn checked_count(name: &str, size: u64) -> Result<u64, Error> {
    let count = WindowTable::count_for(size, WindowTable::standard_window_size(size));
    if (1..=MAX_WINDOWS).contains(&count) {
        return Ok(count);
    }
    Err(Error::field(format!("image {name:?}: size"), "1 byte to 128 GiB", size))
}

/// Reads `length` bytes of an image into `buffer`, which becomes exactly as long.
pub(crate) fn read_piece(name: &str, image: &dyn ReadAt, offset: u64, length: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
    buffer.resize(usize::try_from(length).unwrap_or(0), 0);
    let name = |source| Error::Read { what: format!("image {name:?}"), offset, length, source };
    image.read_exact_at(buffer, offset).map_err(name)
}

/// A set of windows of one image, one bit each: 16 KiB at most.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WindowSet {
    words: Vec<u64>,
    len: u32,
}

impl WindowSet {
    /// No window.
    pub const fn new() -> Self {
        Self { words: Vec::new(), len: 0 }
    }

    /// Windows 0 to `count - 1`; never more than a record may have.
    pub fn all(count: u32) -> Self {
        (0..count).collect()
    }

    /// Adds a window; says whether it was new. A number that no record can have is not added.
    pub fn insert(&mut self, window: u32) -> bool {
        if u64::from(window) >= MAX_WINDOWS {
            return false;
        }
        let (word, bit) = Self::place(window);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u32::from(new);
        new
    }

    /// Takes a window out; says whether it was in.
    pub fn remove(&mut self, window: u32) -> bool {
        let found = self.contains(window);
        if found {
            let (word, bit) = Self::place(window);
            self.words[word] &= !bit;
            self.len -= 1;
        }
        found
    }

    /// Is it in?
    pub fn contains(&self, window: u32) -> bool {
        let (word, bit) = Self::place(window);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Number of windows in it.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Has it none?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The windows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.iter_from(0)
    }

    /// The windows from `first` on, ascending.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        let end = u32::try_from(self.words.len()).unwrap_or(u32::MAX).saturating_mul(u64::BITS);
        (first..end).filter(|window| self.contains(*window))
    }

    fn place(window: u32) -> (usize, u64) {
        (usize::try_from(window / u64::BITS).unwrap_or(usize::MAX), 1 << (window % u64::BITS))
    }
}

impl FromIterator<u32> for WindowSet {
    fn from_iter<I: IntoIterator<Item = u32>>(windows: I) -> Self {
        let mut set = Self::new();
        windows.into_iter().for_each(|window| {
            set.insert(window);
        });
        set
    }
}

/// Bytes of whole windows that a signed release names. [`Verified::check`] is the only maker, and nothing gives a way to change
/// the bytes afterwards: what was hashed is what will be written.
///
/// It owns its buffer, of whatever type the writer wants: aligned memory out of a pool, a `Vec`, a borrowed slice.
#[derive(Debug)]
pub struct Verified<B> {
    release: Sha256Digest,
    image: usize,
    windows: Range<u32>,
    image_offset: u64,
    len: usize,
    buffer: B,
}

impl<B: AsRef<[u8]>> Verified<B> {
    /// Hashes `windows` of image `image` of `release`, which stand at the start of `buffer`, and compares. The buffer may be longer
    /// than they are (what follows is not looked at, and never handed out) and must show the same bytes each time it is asked.
    ///
    /// A window that is no part of the image, or that `buffer` ends in, counts as wrong.
    pub fn check(release: &Release, image: usize, windows: Range<u32>, buffer: B) -> Result<Self, Mismatch<B>> {
        let Compared { wrong, windows, image_offset, len } = compare(release.record(), image, windows, buffer.as_ref());
        let found = Self { release: release.digest(), image, windows, image_offset, len, buffer };
        let window_size = release.record().images.get(image).map_or(0, |image| image.table.window_size());
        if wrong.is_empty() && len > 0 { Ok(found) } else { Err(Mismatch { wrong, window_size, found }) }
    }

    /// The bytes, to be written at [`Verified::image_offset`].
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.as_ref()[..self.len]
    }
}

impl<B> Verified<B> {
    /// First byte of the windows in their image.
    pub const fn image_offset(&self) -> u64 {
        self.image_offset
    }

    /// Index of the image in the record.
    pub const fn image(&self) -> usize {
        self.image
    }

    /// Which windows.
    pub fn windows(&self) -> Range<u32> {
        self.windows.clone()
    }

    /// Digest of the release whose windows they are, so that a writer can tell that they are meant for its slot.
    pub const fn release(&self) -> Sha256Digest {
        self.release
    }

    /// Gives the buffer back, for the next frame.
    pub fn into_buffer(self) -> B {
        self.buffer
    }
}

impl<B: AsRef<[u8]>> Verified<B> {
    /// Those of its windows that are in `windows` too, to be written alone; `None` if there are none.
    pub fn part(&self, windows: &Range<u32>, window_size: u32) -> Option<Verified<&[u8]>> {
        let part = windows.start.max(self.windows.start)..windows.end.min(self.windows.end);
        let bytes = |windows: u32| u64::from(windows).saturating_mul(u64::from(window_size));
        let skipped = bytes(part.start.checked_sub(self.windows.start)?);
        let from = usize::try_from(skipped).ok()?;
        let to = usize::try_from(bytes(part.end.checked_sub(self.windows.start)?)).ok()?.min(self.len);
        let buffer = self.buffer.as_ref().get(from..to).filter(|bytes| !bytes.is_empty())?;
        let (release, image, image_offset) = (self.release, self.image, self.image_offset + skipped);
        Some(Verified { release, image, windows: part, image_offset, len: to - from, buffer })
    }
}

/// What became of a comparison with a record, whoever signed it.
pub(crate) struct Compared {
    pub(crate) wrong: Vec<WrongWindow>,
    /// The windows that the image has, of those that were asked for.
    pub(crate) windows: Range<u32>,
    /// Their first byte in the image.
    pub(crate) image_offset: u64,
    /// Bytes of them that were there.
    pub(crate) len: usize,
}

/// Hashes `windows` of image `image`, which stand at the start of `bytes`, and compares them with `record`.
pub(crate) fn compare(record: &Record, image: usize, windows: Range<u32>, bytes: &[u8]) -> Compared {
    let table = record.images.get(image).map(|image| &image.table);
    let image_offset = table.and_then(|table| table.range(windows.start)).map_or(0, |(offset, _)| offset);
    let end = windows.end.min(table.map_or(0, WindowTable::count));
    let (mut wrong, mut len) = (Vec::new(), 0);
    for window in windows.start..end {
        let bytes = table.and_then(|table| piece(table, window, image_offset, bytes));
        let expected = table.and_then(|table| table.digest(window));
        let got = bytes.map(Sha256Digest::of_window);
        if got.is_none() || got != expected {
            wrong.push(WrongWindow { window, expected, got });
        }
        len += bytes.map_or(0, <[u8]>::len);
    }
    if end < windows.end {
        wrong.push(WrongWindow { window: windows.start.max(end), expected: None, got: None });
    }
    Compared { wrong, windows: windows.start..end.max(windows.start), image_offset, len }
}

/// The bytes of one window in a buffer whose first byte is byte `start` of the image.
fn piece<'b>(table: &WindowTable, window: u32, start: u64, buffer: &'b [u8]) -> Option<&'b [u8]> {
    let (offset, length) = table.range(window)?;
    let from = usize::try_from(offset.checked_sub(start)?).ok()?;
    buffer.get(from..from.checked_add(usize::try_from(length).ok()?)?)
}

/// A window that is not what the record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongWindow {
    /// Its number.
    pub window: u32,
    /// By the record; `None` when the image has no such window.
    pub expected: Option<Sha256Digest>,
    /// Of the bytes; `None` when they were not there.
    pub got: Option<Sha256Digest>,
}

impl fmt::Display for WrongWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = |digest: Option<Sha256Digest>| digest.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
        write!(f, "window {}: expected sha256 {}, got {}", self.window, digest(self.expected), digest(self.got))
    }
}

/// Output of which at least one window is wrong. The right ones can still be used.
#[derive(Debug)]
pub struct Mismatch<B> {
    wrong: Vec<WrongWindow>,
    window_size: u32,
    found: Verified<B>,
}

impl<B: AsRef<[u8]>> Mismatch<B> {
    /// The wrong windows, ascending.
    pub fn wrong(&self) -> &[WrongWindow] {
        &self.wrong
    }

    /// The runs of windows that are right, ascending, each ready to be written.
    pub fn right(&self) -> Vec<Verified<&[u8]>> {
        let is_right = |window: &u32| self.wrong.iter().all(|wrong| wrong.window != *window);
        let right: Vec<u32> = self.found.windows().filter(is_right).collect();
        right.chunk_by(|a, b| a + 1 == *b).filter_map(|run| self.run(*run.first()?, *run.last()?)).collect()
    }

    /// Gives the buffer back, with the wrong bytes in it.
    pub fn into_buffer(self) -> B {
        self.found.buffer
    }

    fn run(&self, first: u32, last: u32) -> Option<Verified<&[u8]>> {
        self.found.part(&(first..last + 1), self.window_size)
    }
}

impl<B> fmt::Display for Mismatch<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.found.windows;
        write!(
            f,
            "image {}: {} of {} windows differ from the record",
            self.found.image,
            self.wrong.len(),
            end.saturating_sub(start)
        )?;
        self.wrong.first().map_or(Ok(()), |first| write!(f, "; {first}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, WINDOW, disk_like, release};

    const SIZE: usize = 3 * WINDOW + 77;

    fn image() -> Vec<u8> {
        disk_like(4, SIZE)
    }

    #[test]
    fn a_table_is_the_same_from_any_number_of_threads_and_from_a_file() {
        let image = image();
        let expected = testing::table_of(&image);
        for threads in [1, 2, 5] {
            let threads = NonZeroUsize::new(threads).unwrap();
            assert_eq!(table_of("root", &image, SIZE as u64, threads).unwrap(), expected);
        }
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &image).unwrap();
        assert_eq!(table_of("root", &file, SIZE as u64, NonZeroUsize::MIN).unwrap(), expected);
    }

    #[test]
    fn an_image_that_is_empty_huge_or_shorter_than_said_is_refused() {
        let refusal = |size| table_of("root", &image(), size, NonZeroUsize::MIN).unwrap_err().to_string();
        assert_eq!(refusal(0), "image \"root\": size: expected 1 byte to 128 GiB, got 0");
        assert!(refusal(u64::MAX).contains("expected 1 byte to 128 GiB, got 18446744073709551615"));
        assert_eq!(refusal(4 * WINDOW as u64), "image \"root\": cannot read 262144 bytes at byte 786432");
    }

    #[test]
    fn right_windows_come_out_as_they_went_in() {
        let (image, size) = (image(), SIZE as u64);
        let release = release(&[("root", &image)]);
        let verified = Verified::check(&release, 0, 0..4, image.clone()).unwrap();
        assert_eq!((verified.image(), verified.windows(), verified.image_offset()), (0, 0..4, 0));
        assert_eq!((verified.bytes().len() as u64, verified.release()), (size, release.digest()));
        let last = Verified::check(&release, 0, 3..4, &image[3 * WINDOW..]).unwrap();
        assert_eq!((last.image_offset(), last.bytes().len()), (3 * WINDOW as u64, 77));
        assert!(verified.into_buffer() == image);
    }

    #[test]
    fn a_longer_buffer_hands_out_only_what_was_hashed() {
        let image = image();
        let mut buffer = vec![0xee; 1 << 20];
        buffer[..77].copy_from_slice(&image[3 * WINDOW..]);
        let verified = Verified::check(&release(&[("root", &image)]), 0, 3..4, buffer).unwrap();
        assert_eq!(verified.bytes(), &image[3 * WINDOW..]);
    }

    #[test]
    fn of_a_partly_wrong_frame_the_right_windows_can_be_used() {
        let image = image();
        let release = release(&[("root", &image)]);
        let mut buffer = image.clone();
        buffer[WINDOW + 5] ^= 1;
        let mismatch = Verified::check(&release, 0, 0..4, buffer).unwrap_err();
        assert_eq!(mismatch.wrong().iter().map(|wrong| wrong.window).collect::<Vec<_>>(), [1]);
        assert!(mismatch.to_string().starts_with("image 0: 1 of 4 windows differ from the record; window 1: expected sha256 "));
        let right = mismatch.right();
        let runs: Vec<_> = right.iter().map(|run| (run.windows(), run.image_offset(), run.bytes())).collect();
        assert_eq!(runs, [(0..1, 0, &image[..WINDOW]), (2..4, 2 * WINDOW as u64, &image[2 * WINDOW..])]);
        assert_eq!(mismatch.into_buffer().len(), SIZE);
    }

    #[test]
    fn the_right_windows_of_a_later_frame_keep_their_place() {
        let image = image();
        let mut buffer = image[WINDOW..].to_vec();
        buffer[0] ^= 1;
        let mismatch = Verified::check(&release(&[("root", &image)]), 0, 1..4, buffer).unwrap_err();
        let right = mismatch.right();
        assert_eq!(right.len(), 1);
        assert_eq!((right[0].windows(), right[0].image_offset()), (2..4, 2 * WINDOW as u64));
        assert_eq!(right[0].bytes(), &image[2 * WINDOW..]);
    }

    #[test]
    fn windows_that_are_not_there_are_wrong() {
        let image = image();
        let release = release(&[("root", &image)]);
        let wrong = |index, windows, bytes: &[u8]| -> Vec<u32> {
            let mismatch = Verified::check(&release, index, windows, bytes.to_vec()).unwrap_err();
            mismatch.wrong().iter().map(|wrong| wrong.window).collect()
        };
        assert_eq!(wrong(0, 0..4, &image[..SIZE - 1]), [3], "the buffer ends in window 3");
        assert_eq!(wrong(0, 3..5, &image[3 * WINDOW..]), [4], "the image ends before window 4");
        assert_eq!(wrong(0, 9..u32::MAX, &image), [9]);
        assert_eq!(wrong(1, 0..4, &image), [0], "no such image");
        assert_eq!(wrong(0, 2..2, &image), [0_u32; 0], "no window is not a verified nothing");
        let short = Verified::check(&release, 0, 2..5, &image[2 * WINDOW..SIZE - 1]).unwrap_err();
        assert_eq!(short.right().iter().map(Verified::windows).next(), Some(2..3));
    }

    proptest! {
        #[test]
        fn a_set_counts_and_keeps_its_windows(steps in proptest::collection::vec((any::<bool>(), 0_u32..200_000), 0..60)) {
            let (mut set, mut model) = (WindowSet::new(), std::collections::BTreeSet::new());
            for (add, window) in steps {
                if add {
                    prop_assert_eq!(set.insert(window), u64::from(window) < MAX_WINDOWS && model.insert(window));
                } else {
                    prop_assert_eq!(set.remove(window), model.remove(&window));
                }
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert_eq!(set.is_empty(), model.is_empty());
        }
    }
}

//! The images of a release that exists, in the order of its record: from files, or out of its full payload.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use manifests::release::{Image, Record, SlotName};
use payload::apply::{Keep, NoSources, Sources, check};
use payload::format::{FrameTable, ImageEntry, Source};
use payload::verity::Tree;
use payload::window::{ReadAt, table_of};

use super::build::ImageFile;
use super::check::read_envelope;
use super::files::{open_image, open_sized, scratch_beside};
use super::source::{PIECE, TREE_IMAGE};
use super::{Error, payload_beside};

/// Where the images of a release are.
#[derive(Clone, Debug)]
pub struct Published {
    /// `VERSION.release`. It is not verified: what is made with it is a claim like itself.
    pub record: PathBuf,
    /// The images as files: all of them, but for a tree of hashes that can be made of another one; or none.
    pub images: Vec<ImageFile>,
    /// Where there are no files: its full payload, as a rule the `VERSION.payload` beside the record.
    pub payload: Option<PathBuf>,
}

impl Published {
    /// Reads what it is. Nothing of it is verified.
    pub(super) fn read_record(&self) -> Result<Record, Error> {
        read_envelope(&self.record)?.record_untrusted().map_err(Error::record(&self.record))
    }

    /// Where its full payload is, or would be.
    fn full_payload(&self, record: &Record) -> PathBuf {
        self.payload.clone().unwrap_or_else(|| payload_beside(&self.record, &record.version))
    }

    /// Bytes of its full payload, where that is there. Whatever else stands in its place is refused: it would be compared with.
    pub(super) fn full_bytes(&self, record: &Record) -> Result<Option<u64>, Error> {
        let path = self.full_payload(record);
        if self.payload.is_none() && !path.exists() {
            return Ok(None);
        }
        full_table(record, &path).map(|(_, table)| Some(table.header().total_len()))
    }
}

/// Opens a payload that makes the images of `record`, and leans on nothing else.
fn full_table(record: &Record, path: &Path) -> Result<(File, FrameTable), Error> {
    let (file, length) = open_sized(path)?;
    let table = FrameTable::read(&file, length, record).map_err(Error::payload(path))?;
    match table.sources().first() {
        None => Ok((file, table)),
        Some(source) => Err(Error::NotFull { path: path.to_owned(), source_image: source.name.clone() }),
    }
}

/// A release and its images.
pub(super) struct Opened {
    pub(super) record: Record,
    images: Vec<Part>,
}

/// An image, or a part of the file that several were unpacked to.
enum Part {
    File { file: File, base: u64 },
    Bytes(Vec<u8>),
}

impl ReadAt for Part {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File { file, base } => ReadAt::read_exact_at(file, buffer, base.saturating_add(offset)),
            Self::Bytes(bytes) => ReadAt::read_exact_at(bytes, buffer, offset),
        }
    }
}

impl Opened {
    /// Opens the images of a release of this record, each of which has to be, window by window, what the record says. What is unpacked lies in a file
    /// without a name beside `place`, or in the folder for temporary files. `progress` gets the bytes done and all.
    pub(super) fn open(
        published: &Published,
        record: Record,
        place: &Path,
        threads: NonZeroUsize,
        progress: &mut dyn FnMut((u64, u64)),
    ) -> Result<Self, Error> {
        let images = if published.images.is_empty() {
            let full = published.full_payload(&record);
            if published.payload.is_none() && !full.exists() {
                return Err(Error::NoImages { record: published.record.clone(), payload: full });
            }
            unpack(&record, &full, place, threads, progress)?
        } else {
            from_files(&record, published, threads, progress)?
        };
        Ok(Self { record, images })
    }

    /// As the builder takes them.
    pub(super) fn for_payload<'s>(&'s self) -> Vec<payload::build::Image<'s>> {
        let image = |(image, part): (&'s Image, &'s Part)| payload::build::Image {
            name: &image.name,
            slot: image.slot,
            size: image.table.image_size(),
            data: part,
        };
        self.record.images.iter().zip(&self.images).map(image).collect()
    }
}

fn unpack(
    record: &Record,
    path: &Path,
    place: &Path,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut((u64, u64)),
) -> Result<Vec<Part>, Error> {
    let (file, table) = full_table(record, path)?;
    let made = scratch_beside(place)?;
    let total = table.images().iter().map(|image| image.size).sum();
    let checked = check(record, &table, &file, &NoSources, (&made, Keep::All), threads, &mut |done| progress((done, total)));
    let checked = checked.map_err(Error::payload(path))?;
    if let Some(fault) = checked.faults.first() {
        return Err(Error::WrongPayload { path: path.to_owned(), wrong: checked.wrong, reason: fault.reason.clone() });
    }
    let mut base = 0;
    table
        .images()
        .iter()
        .map(|image| {
            let file = made.try_clone().map_err(Error::file("open again", path))?;
            let part = Part::File { file, base };
            base += image.size;
            Ok(part)
        })
        .collect()
}

fn from_files(
    record: &Record,
    published: &Published,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut((u64, u64)),
) -> Result<Vec<Part>, Error> {
    let is_of = |image: &Image, file: &&ImageFile| image.name == file.name && image.slot == file.slot;
    if let Some(file) = published.images.iter().find(|file| !record.images.iter().any(|image| is_of(image, file))) {
        let images = record.images.iter().map(|image| label(&image.name, image.slot)).collect();
        return Err(Error::NoSuchImage { record: published.record.clone(), name: label(&file.name, file.slot), images });
    }
    let total = record.images.iter().map(|image| image.table.image_size()).sum();
    let mut done = 0;
    record
        .images
        .iter()
        .map(|image| {
            let part = match published.images.iter().find(|file| is_of(image, file)) {
                Some(file) => {
                    let (opened, size) = open_image(&image.name, &file.path)?;
                    expect_size(image, &file.path, size)?;
                    Part::File { file: opened, base: 0 }
                }
                None => tree(record, image, published)?,
            };
            let found = table_of(&image.name, &part, image.table.image_size(), threads);
            let found = found.map_err(Error::payload(&published.record))?;
            let count = image.table.count();
            let wrong: Vec<u32> = (0..count).filter(|window| found.digest(*window) != image.table.digest(*window)).collect();
            if let Some(first) = wrong.first() {
                let (name, record) = (label(&image.name, image.slot), published.record.clone());
                return Err(Error::AnotherImage { record, name, wrong: wrong.len(), first: *first, windows: count });
            }
            done += image.table.image_size();
            progress((done, total));
            Ok(part)
        })
        .collect()
}

fn expect_size(image: &Image, path: &Path, got: u64) -> Result<(), Error> {
    let expected = image.table.image_size();
    if got == expected {
        return Ok(());
    }
    Err(Error::ImageSize { path: path.to_owned(), name: label(&image.name, image.slot), expected, got })
}

/// A tree of hashes that nobody gave is made of the image that it is over.
fn tree(record: &Record, image: &Image, published: &Published) -> Result<Part, Error> {
    let missing = || Error::ImageMissing { record: published.record.clone(), name: label(&image.name, image.slot) };
    let under =
        record.images.iter().find(|under| under.verity.is_some()).filter(|_| image.name == TREE_IMAGE).ok_or_else(missing)?;
    let verity = under.verity.as_ref().ok_or_else(missing)?;
    let file = published.images.iter().find(|file| under.name == file.name && under.slot == file.slot).ok_or_else(missing)?;
    let (opened, size) = open_image(&file.name, &file.path)?;
    let salt = bytes_of_hex(&verity.salt).ok_or_else(missing)?;
    let tree = Tree::of(io::BufReader::with_capacity(PIECE, opened), size, &salt);
    tree.map(|tree| Part::Bytes(tree.bytes)).map_err(|reason| Error::Tree { path: file.path.clone(), reason })
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
}

/// `root`, or `kernel@a`.
pub(crate) fn label(name: &str, slot: Option<SlotName>) -> String {
    slot.map_or_else(|| name.to_owned(), |slot| format!("{name}@{slot}"))
}

/// A release that deltas may lean on. Its images are unpacked, or compared with its record, once: when the first delta asks for them.
pub struct LeanedOn {
    published: Published,
    opened: Option<Opened>,
}

impl LeanedOn {
    /// The images of `published`, of which nothing is read yet.
    pub const fn new(published: Published) -> Self {
        Self { published, opened: None }
    }

    /// Its images, for a payload at `place`; and where its record is.
    pub(super) fn open(
        &mut self,
        place: &Path,
        threads: NonZeroUsize,
        progress: &mut dyn FnMut((u64, u64)),
    ) -> Result<(&Opened, &Path), Error> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => Opened::open(&self.published, self.published.read_record()?, place, threads, progress)?,
        };
        Ok((self.opened.insert(opened), &self.published.record))
    }
}

/// What a delta leans on, by the order of its table.
pub(super) struct SourceImages<'a>(Vec<&'a Part>);

impl<'a> SourceImages<'a> {
    /// Finds each source image of a table in a release that may be the one.
    pub(super) fn of(entries: &[ImageEntry], opened: &'a Opened) -> Option<Self> {
        let find = |entry: &ImageEntry| {
            let images = opened.record.images.iter().zip(&opened.images);
            let is_it = |image: &Image| {
                image.name == entry.name && image.slot == entry.slot && image.table.sha256() == entry.table_sha256
            };
            images.into_iter().find(|(image, _)| is_it(image)).map(|(_, part)| part)
        };
        entries.iter().map(find).collect::<Option<Vec<_>>>().map(Self)
    }
}

impl Sources for SourceImages<'_> {
    fn read(&self, source: Source, _: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let part = match source {
            Source::Image(index) => self.0.get(usize::from(index)),
            Source::Target => None,
        };
        part.ok_or(io::ErrorKind::NotFound)?.read_exact_at(buffer, offset)
    }
}

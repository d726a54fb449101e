//! Where the bytes of a payload go: which files of the images they make.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;

use manifests::release::SlotName;
use payload::build::Image;
use payload::format::{Frame, FrameTable};
use serde::Serialize;

use super::advice::{Warning, warnings};
use super::{Inspection, largest_frames, summarise_payload};
use crate::filesystem::{Contents, Owner};
use crate::publisher::Error;
use crate::publisher::files::open_sized;
use crate::publisher::images::{Opened, Published};

/// Files named of one frame: with 1 MiB of output, one or two have most of it.
const FILES_OF_A_FRAME: usize = 3;

/// A payload held against the images it makes.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Version of the release it makes.
    pub version: String,
    /// Its sequence.
    pub sequence: u64,
    /// Bytes of the full payload, where that is there to be compared with.
    pub full_bytes: Option<u64>,
    /// What the images are.
    pub images: Vec<ImageContents>,
    /// The files that most bytes of the payload go to, most first.
    pub files: Vec<Share>,
    /// All other files that bytes of the payload go to.
    pub other_files: OtherFiles,
    /// What is no file: metadata of file systems, free space, images that are none.
    pub besides: Vec<Share>,
    /// What makes the payload larger than it need be.
    pub warnings: Vec<Warning>,
}

/// An image that a payload makes, as far as it can be read.
#[derive(Debug, Serialize)]
pub struct ImageContents {
    /// Name.
    pub name: String,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// `ext4`, `squashfs` and so on.
    pub file_system: Option<&'static str>,
    /// With what the file system compresses files.
    pub packed_with: Option<&'static str>,
    /// Bytes of the payload that it takes.
    pub blob_bytes: u64,
    /// Why no file, or not every file, of it is known.
    pub note: Option<String>,
}

/// What a part of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A file.
    File,
    /// What a file system needs beside the files.
    Metadata,
    /// What a file system does not use.
    Free,
    /// Not known.
    Unknown,
}

/// How much of a payload goes to something. The bytes of each frame are shared out over what it makes, by length.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// Image.
    pub image: String,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// What in it.
    pub what: What,
    /// Of a file: its path, from the root of its file system.
    pub path: Option<String>,
    /// Bytes of the image that the payload makes.
    pub image_bytes: u64,
    /// Bytes of the payload.
    pub blob_bytes: u64,
}

/// Files that are not named.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct OtherFiles {
    /// How many.
    pub files: u64,
    /// Bytes of the payload that go to them.
    pub blob_bytes: u64,
}

/// Says what a payload is, as [`inspect`](super::inspect) does, and which files its bytes go to. `published` is the release it makes; nothing
/// is verified but that payload and images are what its record says. At most `most` frames and files are named. `progress` gets the bytes of
/// images read, and all.
pub fn explain(
    path: &Path,
    published: &Published,
    most: usize,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut((u64, u64)),
) -> Result<Inspection, Error> {
    let record = published.read_record()?;
    let (file, length) = open_sized(path)?;
    let table = FrameTable::read(&file, length, &record).map_err(Error::payload(path))?;
    let full_bytes = published.full_bytes(&record)?;
    let opened = Opened::open(published, record, path, threads, progress)?;
    let images: Vec<Looked<'_>> = opened.for_payload().into_iter().map(Looked::at).collect();
    let ledger = Ledger::of(&table, &images);

    let mut summary = summarise_payload(&table, most);
    for (frame, summary) in largest_frames(&table, most).into_iter().zip(&mut summary.largest) {
        summary.files = shares_of_frame(&frame, &images);
    }
    let (files, other_files) = ledger.files(&images, most);
    summary.release = Some(Explanation {
        version: opened.record.version.to_string(),
        sequence: opened.record.sequence.get(),
        full_bytes,
        images: images.iter().enumerate().map(|(image, looked)| looked.summarise(ledger.of_image(image))).collect(),
        files,
        other_files,
        besides: ledger.besides(&images),
        warnings: warnings(&images, &ledger, length),
    });
    Ok(Inspection::Payload(Box::new(summary)))
}

/// An image, and what was found in it.
pub(super) struct Looked<'a> {
    pub(super) image: Image<'a>,
    pub(super) contents: Result<Contents, String>,
}

impl<'a> Looked<'a> {
    fn at(image: Image<'a>) -> Self {
        let contents = Contents::read(image.data, image.size);
        Self { image, contents }
    }

    fn summarise(&self, blob_bytes: u64) -> ImageContents {
        let found = self.contents.as_ref().ok();
        ImageContents {
            name: self.image.name.to_owned(),
            slot: self.image.slot,
            file_system: found.map(|contents| contents.kind),
            packed_with: found.and_then(|contents| contents.packed_with),
            blob_bytes,
            note: found.map_or_else(|| self.contents.as_ref().err().cloned(), |contents| contents.gap.clone()),
        }
    }

    fn share(&self, owner: Owner, sum: Sum) -> Share {
        let path = |file| self.contents.as_ref().ok().map(|contents| contents.path(file));
        let (what, path) = match owner {
            Owner::File(file) => (What::File, path(file)),
            Owner::Metadata => (What::Metadata, None),
            Owner::Free => (What::Free, None),
            Owner::Unknown => (What::Unknown, None),
        };
        let Image { name, slot, .. } = self.image;
        Share { image: name.to_owned(), slot, what, path, image_bytes: sum.image_bytes, blob_bytes: sum.blob_bytes }
    }
}

/// Bytes of images and of the payload.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) image_bytes: u64,
    pub(super) blob_bytes: u64,
}

impl Sum {
    const fn add(&mut self, other: Self) {
        self.image_bytes += other.image_bytes;
        self.blob_bytes += other.blob_bytes;
    }
}

/// What the bytes of a whole payload go to, by image and owner.
pub(super) struct Ledger {
    rows: HashMap<(usize, Owner), Sum>,
}

impl Ledger {
    fn of(table: &FrameTable, images: &[Looked<'_>]) -> Self {
        let mut rows: HashMap<(usize, Owner), Sum> = HashMap::new();
        for frame in table.frames() {
            share_out(&frame, images, &mut |owner, sum| rows.entry((frame.image(), owner)).or_default().add(sum));
        }
        Self { rows }
    }

    pub(super) fn of_image(&self, image: usize) -> u64 {
        self.rows.iter().filter(|((of, _), _)| *of == image).map(|(_, sum)| sum.blob_bytes).sum()
    }

    /// Image, index and sum of every file that bytes go to, those with most first.
    pub(super) fn by_size(&self) -> Vec<(usize, u32, Sum)> {
        let file = |((image, owner), sum): (&(usize, Owner), &Sum)| match owner {
            Owner::File(file) if sum.blob_bytes > 0 => Some((*image, *file, *sum)),
            _ => None,
        };
        let mut files: Vec<_> = self.rows.iter().filter_map(file).collect();
        files.sort_by_key(|(image, file, sum)| (std::cmp::Reverse(sum.blob_bytes), *image, *file));
        files
    }

    fn files(&self, images: &[Looked<'_>], most: usize) -> (Vec<Share>, OtherFiles) {
        let all = self.by_size();
        let (named, others) = all.split_at(most.min(all.len()));
        let share = |(image, file, sum): &(usize, u32, Sum)| images.get(*image).map(|at| at.share(Owner::File(*file), *sum));
        let blob_bytes = others.iter().map(|(_, _, sum)| sum.blob_bytes).sum();
        let files = u64::try_from(others.len()).unwrap_or(u64::MAX);
        (named.iter().filter_map(share).collect(), OtherFiles { files, blob_bytes })
    }

    fn besides(&self, images: &[Looked<'_>]) -> Vec<Share> {
        let mut besides = Vec::new();
        for (image, looked) in images.iter().enumerate() {
            for owner in [Owner::Metadata, Owner::Free, Owner::Unknown] {
                besides.extend(self.rows.get(&(image, owner)).map(|sum| looked.share(owner, *sum)));
            }
        }
        besides
    }
}

/// Whose the output of a frame is, and how many bytes of its blob are each one's. They add up to its blob.
fn share_out(frame: &Frame<'_>, images: &[Looked<'_>], tell: &mut dyn FnMut(Owner, Sum)) {
    let (start, length) = (frame.image_offset(), u64::try_from(frame.output_len()).unwrap_or(u64::MAX));
    let blob = frame.blob().end - frame.blob().start;
    match images.get(frame.image()).map(|looked| &looked.contents) {
        Some(Ok(contents)) => {
            // Both are below 2^21.
            let up_to = |at: u64| blob * (at - start) / length;
            contents.owners(start..start + length, &mut |owner, range| {
                let blob_bytes = up_to(range.end) - up_to(range.start);
                tell(owner, Sum { image_bytes: range.end - range.start, blob_bytes });
            });
        }
        _ => tell(Owner::Unknown, Sum { image_bytes: length, blob_bytes: blob }),
    }
}

/// The few owners that most of a frame goes to.
fn shares_of_frame(frame: &Frame<'_>, images: &[Looked<'_>]) -> Vec<Share> {
    let mut rows: HashMap<Owner, Sum> = HashMap::new();
    share_out(frame, images, &mut |owner, sum| rows.entry(owner).or_default().add(sum));
    let mut rows: Vec<(Owner, Sum)> = rows.into_iter().collect();
    rows.sort_by_key(|(owner, sum)| (std::cmp::Reverse(sum.blob_bytes), *owner));
    rows.truncate(FILES_OF_A_FRAME);
    let looked = images.get(frame.image());
    rows.into_iter().filter_map(|(owner, sum)| looked.map(|looked| looked.share(owner, sum))).collect()
}

//! What makes a payload larger than it need be: images, and files in them, that are compressed already. A small change alters all that follows
//! it in a compressed stream, so that little of the old one can be leaned on; and the payload is compressed anyway.

use manifests::release::SlotName;
use serde::Serialize;

use super::explain::{Ledger, Looked};
use super::inside::{Sort, packed_with};
use crate::filesystem::Contents;

/// What takes less than this part of a payload is not worth a word: 1 in so many.
const WORTH_A_WORD: u64 = 100;
/// Most files that are looked into, those with most bytes of the payload first.
const FILES_LOOKED_INTO: usize = 100_000;
/// Ends of the names of compressed kernel modules.
const MODULES: [&str; 3] = [".ko.gz", ".ko.xz", ".ko.zst"];

/// What is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Packed {
    /// A whole image.
    Image,
    /// A kernel that unpacks itself.
    Kernel,
    /// The modules of a kernel, together.
    Modules,
    /// One file.
    File,
    /// Many small files, together.
    Files,
}

/// Something compressed that more than 1 % of a payload goes to.
#[derive(Clone, Debug, Serialize)]
pub struct Warning {
    /// What it is.
    pub packed: Packed,
    /// Image.
    pub image: String,
    /// Only for this slot.
    pub slot: Option<SlotName>,
    /// Of a whole image: its file system, if it is one.
    pub file_system: Option<&'static str>,
    /// Of one file: its path.
    pub path: Option<String>,
    /// Files.
    pub files: u64,
    /// With what they are compressed, each once.
    pub packed_with: Vec<&'static str>,
    /// Bytes of the payload that go to it.
    pub blob_bytes: u64,
}

/// Everything of a payload of `payload_bytes` that is worth a word, most first.
pub(super) fn warnings(images: &[Looked<'_>], ledger: &Ledger, payload_bytes: u64) -> Vec<Warning> {
    let (mut found, mut files) = (Vec::new(), ledger.by_size());
    files.truncate(FILES_LOOKED_INTO);
    for (index, looked) in images.iter().enumerate() {
        let own = files.iter().filter(|(image, _, _)| *image == index).map(|(_, file, sum)| (*file, sum.blob_bytes));
        match of_image(looked, ledger.of_image(index)) {
            Some(warning) => found.push(warning),
            None => found.extend(of_files(looked, own, payload_bytes / WORTH_A_WORD)),
        }
    }
    found.retain(|warning| warning.blob_bytes > payload_bytes / WORTH_A_WORD);
    found.sort_by_key(|warning| std::cmp::Reverse(warning.blob_bytes));
    found
}

fn of_image(looked: &Looked<'_>, blob_bytes: u64) -> Option<Warning> {
    let (packed, file_system, name) = match &looked.contents {
        Ok(contents) => (Packed::Image, Some(contents.kind), contents.packed_with?),
        Err(_) => {
            let image = &looked.image;
            let read = |offset: u64, buffer: &mut [u8]| {
                let length = image.size.saturating_sub(offset).min(buffer.len() as u64);
                let buffer = usize::try_from(length).ok().and_then(|length| buffer.get_mut(..length));
                buffer.map_or(0, |buffer| image.data.read_exact_at(buffer, offset).map_or(0, |()| buffer.len()))
            };
            let (sort, name) = packed_with(&read)?;
            (if sort == Sort::Kernel { Packed::Kernel } else { Packed::Image }, None, name)
        }
    };
    Some(Warning { packed_with: vec![name], file_system, files: 0, blob_bytes, ..empty(looked, packed) })
}

fn empty(looked: &Looked<'_>, packed: Packed) -> Warning {
    Warning {
        packed,
        image: looked.image.name.to_owned(),
        slot: looked.image.slot,
        file_system: None,
        path: None,
        files: 0,
        packed_with: Vec::new(),
        blob_bytes: 0,
    }
}

/// Kernels and large files each, modules and what is left together.
fn of_files(looked: &Looked<'_>, files: impl Iterator<Item = (u32, u64)>, worth: u64) -> Vec<Warning> {
    let Ok(contents) = &looked.contents else { return Vec::new() };
    let (mut modules, mut others) = (empty(looked, Packed::Modules), empty(looked, Packed::Files));
    let mut found = Vec::new();
    for (file, blob_bytes) in files {
        let Some((sort, name)) = look_into(looked, contents, file) else { continue };
        let path = contents.path(file);
        let group = if MODULES.iter().any(|end| path.ends_with(end)) {
            &mut modules
        } else if blob_bytes > worth {
            let packed = if sort == Sort::Kernel { Packed::Kernel } else { Packed::File };
            found.push(Warning { path: Some(path), ..empty(looked, packed) });
            let Some(last) = found.last_mut() else { continue };
            last
        } else {
            &mut others
        };
        group.files += 1;
        group.blob_bytes += blob_bytes;
        if !group.packed_with.contains(&name) {
            group.packed_with.push(name);
        }
    }
    found.extend([modules, others]);
    found
}

fn look_into(looked: &Looked<'_>, contents: &Contents, file: u32) -> Option<(Sort, &'static str)> {
    let data = looked.image.data;
    packed_with(&|offset, buffer: &mut [u8]| contents.read_file(&data, file, offset, buffer).unwrap_or(0))
}

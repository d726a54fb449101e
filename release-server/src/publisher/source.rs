//! The images of a release, opened: files, and the trees of hashes that are made of them.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use manifests::digest::Sha256Digest;
use manifests::release::{Image, SlotName, Verity, WindowTable};
use payload::verity::Tree;
use payload::window::ReadAt;
use sha2::{Digest as _, Sha256};

use super::Error;
use super::build::ImageFile;
use super::files::open_image;

/// The name of the image that a tree of hashes is.
pub const TREE_IMAGE: &str = "verity";
/// Read at once.
pub(super) const PIECE: usize = 1 << 20;

/// One image of the record.
pub(super) struct Source {
    name: String,
    slot: Option<SlotName>,
    pub(super) size: u64,
    data: Data,
    /// Of an image that has a tree.
    verity: Option<Verity>,
}

enum Data {
    File(File),
    Tree(Vec<u8>),
}

impl Source {
    pub(super) fn for_payload(&self) -> payload::build::Image<'_> {
        let data: &dyn ReadAt = match &self.data {
            Data::File(file) => file,
            Data::Tree(bytes) => bytes,
        };
        payload::build::Image { name: &self.name, slot: self.slot, size: self.size, data }
    }

    pub(super) fn for_record(&self, table: WindowTable) -> Image {
        Image { name: self.name.clone(), slot: self.slot, table, verity: self.verity.clone() }
    }
}

/// Opens the images in their order; the tree over `with_tree`, if one is wanted, comes last.
pub(super) fn open(images: &[ImageFile], with_tree: Option<&str>) -> Result<Vec<Source>, Error> {
    let opened = images.iter().map(|image| {
        let (file, size) = open_image(&image.name, &image.path)?;
        Ok(Source { name: image.name.clone(), slot: image.slot, size, data: Data::File(file), verity: None })
    });
    let mut sources = opened.collect::<Result<Vec<_>, Error>>()?;
    let Some(wanted) = with_tree else { return Ok(sources) };
    let Some(at) = images.iter().position(|image| image.name == wanted && image.slot.is_none()) else {
        return Err(Error::NoImageForTree { name: wanted.to_owned() });
    };
    let tree = tree_over(&mut sources[at], &images[at].path)?;
    sources.push(tree);
    Ok(sources)
}

/// The salt is made of the image: the same image has the same tree and the same root, whoever builds it and whenever.
fn tree_over(source: &mut Source, path: &Path) -> Result<Source, Error> {
    let Data::File(file) = &mut source.data else { return Err(Error::NoImageForTree { name: source.name.clone() }) };
    let failed = Error::file("read", path);
    let salt = digest_of(file).map_err(failed)?;
    let tree = Tree::of(io::BufReader::with_capacity(PIECE, &*file), source.size, salt.as_bytes());
    let tree = tree.map_err(|reason| Error::Tree { path: path.to_owned(), reason })?;
    file.rewind().map_err(Error::file("rewind", path))?;
    source.verity = Some(Verity { root_hash: tree.root, salt: salt.to_string() });
    let size = u64::try_from(tree.bytes.len()).unwrap_or(u64::MAX);
    Ok(Source { name: TREE_IMAGE.to_owned(), slot: None, size, data: Data::Tree(tree.bytes), verity: None })
}

fn digest_of(file: &mut File) -> io::Result<Sha256Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => hash.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(Sha256Digest::from_bytes(hash.finalize().into()))
}

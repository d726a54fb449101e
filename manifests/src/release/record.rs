//! What a record says: its fields, their rules, and their JSON.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::keyring::KeyId;
use crate::limits::{LARGE_WINDOW_BYTES, MAX_IMAGES, MAX_LIST, MAX_NAME_CHARS, MAX_NOTES_CHARS, MAX_WINDOWS, WINDOW_BYTES};
use crate::release::strict_json::Strict;
use crate::release::{RecordError, WindowTable};
use crate::version::{Sequence, Version};

/// The line before the JSON; part of what is signed, so that a signature made for another purpose never fits.
pub(super) const DOMAIN: &[u8] = b"ota release record v1\n";

/// Board of a release, and of a host, that names none: publishers and hosts that say nothing about boards agree.
pub const DEFAULT_BOARD: &str = "generic";

/// A release in words. Plain data: having one proves nothing (a [`crate::release::Release`] does).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Product: the Omaha app id.
    pub product: String,
    /// Machine architecture as `uname -m` says it.
    pub arch: String,
    /// Board the images are built for.
    pub board: String,
    /// Label for people and Omaha.
    pub version: Version,
    /// The only order of releases: one rising line per product and board over all channels.
    pub sequence: Sequence,
    /// When it was made.
    pub created: Timestamp,
    /// Floor that committing this release sets: nothing below it may be installed afterwards. At most its own sequence.
    pub not_below: Sequence,
    /// Oldest release that may be updated to this one directly.
    pub minimum_source: Option<Sequence>,
    /// Channels it may be installed from; empty = any.
    pub channels: Vec<String>,
    /// May supersede a pending update without waiting a day.
    pub urgent: bool,
    /// Keys that are no longer trusted once this release is committed. Enough of its own signers must not be among them
    /// ([`Self::check_signers_stay`]).
    pub revoked_keys: Vec<KeyId>,
    /// Digest of the frame table of the publisher's own full payload: lets a host refuse a foreign one before it reads a frame.
    pub payload_table_sha256: Option<Sha256Digest>,
    /// What changed, for people.
    pub notes: Option<Notes>,
    /// The images, one to sixteen, names distinct per slot.
    pub images: Vec<Image>,
}

/// One image of a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Name the host's slots are configured by, such as `root`.
    pub name: String,
    /// Only for this slot (images that name their partition in a command line); `None` = fits either.
    pub slot: Option<SlotName>,
    /// Digests of its windows.
    pub table: WindowTable,
    /// dm-verity root of the image, when it has a tree.
    pub verity: Option<Verity>,
}

/// One of the two slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotName {
    /// Slot `a`.
    A,
    /// Slot `b`.
    B,
}

impl SlotName {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `"a"` or `"b"`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl std::fmt::Display for SlotName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// dm-verity parameters, as `veritysetup` prints them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verity {
    /// Root hash of the tree.
    pub root_hash: Sha256Digest,
    /// Salt, hex, at most 64 digits.
    pub salt: String,
}

/// Release notes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Notes {
    /// The text itself.
    Text(String),
    /// Where the text is, and what it must hash to.
    Url {
        /// http or https.
        url: String,
        /// Digest of the text.
        sha256: Sha256Digest,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordJson {
    product: String,
    arch: String,
    board: String,
    version: Version,
    sequence: Sequence,
    created: Timestamp,
    not_below: Sequence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minimum_source: Option<Sequence>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    channels: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    urgent: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revoked_keys: Vec<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_table_sha256: Option<Sha256Digest>,
    images: Vec<ImageJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notes: Option<Notes>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageJson {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slot: Option<SlotName>,
    size: u64,
    window_size: u32,
    table_sha256: Sha256Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verity: Option<Verity>,
}

impl Record {
    /// The images that belong into a slot, with their index in the record.
    pub fn images_for(&self, slot: SlotName) -> impl Iterator<Item = (usize, &Image)> {
        self.images.iter().enumerate().filter(move |(_, image)| image.slot.is_none_or(|only| only == slot))
    }

    /// The signed part for this record: domain line and JSON. Refuses a record that a reader would refuse.
    pub(super) fn to_signed_bytes(&self) -> Result<Vec<u8>, RecordError> {
        self.validate()?;
        let json = serde_json::to_vec_pretty(&self.to_json()).map_err(|error| RecordError::Json { reason: error.to_string() })?;
        Ok([DOMAIN, &json, b"\n"].concat())
    }

    /// Reads a signed part and its window tables. The caller has verified the signatures, or says that it does not trust the result.
    pub(super) fn from_signed_bytes(signed: &[u8], tables: &[u8]) -> Result<Self, RecordError> {
        let json = signed.strip_prefix(DOMAIN).ok_or(RecordError::Domain)?;
        let bad_json = |error: serde_json::Error| RecordError::Json { reason: error.to_string() };
        let Strict(value) = serde_json::from_slice(json).map_err(bad_json)?;
        let json: RecordJson = serde_json::from_value(value).map_err(bad_json)?;
        let record = Self::from_json(json, tables)?;
        record.validate()?;
        Ok(record)
    }

    /// Refuses a record that leaves fewer than `threshold` of its signers unrevoked: its own revocation, which holds from its commit
    /// on, would take away what vouches for it. `signers` are all the keys that signed, also those that are not trusted yet: an image
    /// brings the next keys, so that a release signed by the old key and the next one may revoke the old one.
    ///
    /// # Errors
    /// [`RecordError::RevokesItsSigners`].
    pub fn check_signers_stay(&self, signers: impl IntoIterator<Item = KeyId>, threshold: NonZeroU32) -> Result<(), RecordError> {
        let signed_by: BTreeSet<KeyId> = signers.into_iter().collect();
        let staying: Vec<KeyId> = signed_by.iter().filter(|key| !self.revoked_keys.contains(key)).copied().collect();
        let threshold = threshold.get();
        if staying.len() == signed_by.len() || u32::try_from(staying.len()).is_ok_and(|count| count >= threshold) {
            return Ok(());
        }
        let signed_by = signed_by.into_iter().collect();
        Err(RecordError::RevokesItsSigners { threshold, staying, signed_by, revokes: self.revoked_keys.clone() })
    }

    fn to_json(&self) -> RecordJson {
        RecordJson {
            product: self.product.clone(),
            arch: self.arch.clone(),
            board: self.board.clone(),
            version: self.version.clone(),
            sequence: self.sequence,
            created: self.created,
            not_below: self.not_below,
            minimum_source: self.minimum_source,
            channels: self.channels.clone(),
            urgent: self.urgent,
            revoked_keys: self.revoked_keys.clone(),
            payload_table_sha256: self.payload_table_sha256,
            images: self.images.iter().map(Image::to_json).collect(),
            notes: self.notes.clone(),
        }
    }

    fn from_json(json: RecordJson, tables: &[u8]) -> Result<Self, RecordError> {
        Ok(Self {
            images: cut_tables(json.images, tables)?,
            product: json.product,
            arch: json.arch,
            board: json.board,
            version: json.version,
            sequence: json.sequence,
            created: json.created,
            not_below: json.not_below,
            minimum_source: json.minimum_source,
            channels: json.channels,
            urgent: json.urgent,
            revoked_keys: json.revoked_keys,
            payload_table_sha256: json.payload_table_sha256,
            notes: json.notes,
        })
    }

    fn validate(&self) -> Result<(), RecordError> {
        for (field, text) in [("product", &self.product), ("arch", &self.arch), ("board", &self.board)] {
            check_name(field, text)?;
        }
        if self.sequence == Sequence::ZERO {
            return Err(field("sequence", "a number from 1 up", "0"));
        }
        if self.not_below > self.sequence {
            let expected = format!("at most its own sequence {}", self.sequence);
            return Err(field("not_below", &expected, &self.not_below.to_string()));
        }
        if let Some(minimum) = self.minimum_source.filter(|minimum| *minimum >= self.sequence) {
            let expected = format!("a sequence below its own {}", self.sequence);
            return Err(field("minimum_source", &expected, &minimum.to_string()));
        }
        self.validate_lists()?;
        validate_images(&self.images)
    }

    fn validate_lists(&self) -> Result<(), RecordError> {
        for (name, length) in [("channels", self.channels.len()), ("revoked_keys", self.revoked_keys.len())] {
            if length > MAX_LIST {
                return Err(field(name, &format!("at most {MAX_LIST} entries"), &length.to_string()));
            }
        }
        for channel in &self.channels {
            check_name("channels", channel)?;
        }
        let text = match &self.notes {
            None => return Ok(()),
            Some(Notes::Text(text)) => text,
            Some(Notes::Url { url, .. }) if url.starts_with("https://") || url.starts_with("http://") => url,
            Some(Notes::Url { url, .. }) => return Err(field("notes.url", "an http or https URL", &format!("{url:?}"))),
        };
        if text.chars().count() > MAX_NOTES_CHARS {
            return Err(field("notes", &format!("at most {MAX_NOTES_CHARS} characters"), "more"));
        }
        Ok(())
    }
}

impl Image {
    fn to_json(&self) -> ImageJson {
        ImageJson {
            name: self.name.clone(),
            slot: self.slot,
            size: self.table.image_size(),
            window_size: self.table.window_size(),
            table_sha256: self.table.sha256(),
            verity: self.verity.clone(),
        }
    }
}

/// Cuts the tables' bytes at the images' sizes and checks each against its signed digest.
fn cut_tables(images: Vec<ImageJson>, tables: &[u8]) -> Result<Vec<Image>, RecordError> {
    let expected = images.iter().try_fold(0_u64, |sum, image| sum.checked_add(table_bytes(image)?)).unwrap_or(u64::MAX);
    let got = u64::try_from(tables.len()).unwrap_or(u64::MAX);
    if images.iter().any(|image| ![WINDOW_BYTES, LARGE_WINDOW_BYTES].contains(&image.window_size)) {
        return Err(field("images.window_size", "262144 or 1048576", "something else"));
    }
    if expected != got || got > MAX_WINDOWS * 32 {
        return Err(RecordError::TableLength { expected, got });
    }
    let mut rest = tables;
    images
        .into_iter()
        .map(|image| {
            let length = table_bytes(&image).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX).min(rest.len());
            let (mine, after) = rest.split_at(length);
            rest = after;
            read_image(image, mine)
        })
        .collect()
}

fn table_bytes(image: &ImageJson) -> Option<u64> {
    if image.window_size == 0 {
        return None;
    }
    WindowTable::count_for(image.size, image.window_size).checked_mul(32)
}

fn read_image(image: ImageJson, bytes: &[u8]) -> Result<Image, RecordError> {
    let got = Sha256Digest::of(bytes);
    if got != image.table_sha256 {
        return Err(RecordError::Table { image: image.name, expected: image.table_sha256, got });
    }
    let (digests, _) = bytes.as_chunks::<32>();
    let digests = digests.iter().map(|digest| Sha256Digest::from_bytes(*digest)).collect();
    let table = WindowTable::with_window_size(image.size, image.window_size, digests)?;
    Ok(Image { name: image.name, slot: image.slot, table, verity: image.verity })
}

fn validate_images(images: &[Image]) -> Result<(), RecordError> {
    if images.is_empty() || images.len() > MAX_IMAGES {
        return Err(field("images", &format!("1 to {MAX_IMAGES}"), &images.len().to_string()));
    }
    for (index, image) in images.iter().enumerate() {
        check_name("images.name", &image.name)?;
        let clash = |other: &Image| {
            other.name == image.name && (other.slot == image.slot || other.slot.is_none() || image.slot.is_none())
        };
        if images[..index].iter().any(clash) {
            return Err(field("images.name", "names that are distinct for each slot", &format!("{:?} twice", image.name)));
        }
        let expected = WindowTable::standard_window_size(image.table.image_size());
        if image.table.window_size() != expected {
            return Err(field("images.window_size", &expected.to_string(), &image.table.window_size().to_string()));
        }
        if let Some(verity) = &image.verity {
            check_salt(&verity.salt)?;
        }
    }
    Ok(())
}

fn check_salt(salt: &str) -> Result<(), RecordError> {
    if salt.len() <= 64 && salt.len().is_multiple_of(2) && salt.bytes().all(|c| c.is_ascii_hexdigit()) {
        Ok(())
    } else {
        Err(field("images.verity.salt", "at most 64 hex digits", &format!("{salt:?}")))
    }
}

/// Names end up in file names, XML attributes and terminals: printable ASCII without `/`, quotes or spaces.
fn check_name(name: &str, text: &str) -> Result<(), RecordError> {
    let fine = |c: u8| c.is_ascii_graphic() && !b"/\\\"'<>&`".contains(&c);
    let dots = text.bytes().all(|c| c == b'.');
    if !text.is_empty() && text.len() <= MAX_NAME_CHARS && !dots && text.bytes().all(fine) {
        Ok(())
    } else {
        let got: String = text.chars().take(MAX_NAME_CHARS + 1).collect();
        Err(field(name, "1 to 64 printable ASCII characters without spaces, quotes, slashes or <>&", &format!("{got:?}")))
    }
}

fn field(name: &str, expected: &str, got: &str) -> RecordError {
    RecordError::Field { field: name.to_owned(), expected: expected.to_owned(), got: got.to_owned() }
}

//! Making, signing, checking and explaining releases.
//!
//! ```
//! # use std::path::Path;
//! # use release_server::publisher::{BuildSpec, ImageFile, build_release, check_payload, check_record, generate_key, read_keyring, read_secret_key};
//! # use manifests::version::{Sequence, Version};
//! # let dir = tempfile::tempdir()?;
//! # let dir: &Path = dir.path();
//! # std::fs::write(dir.join("rootfs.ext4"), vec![7; 300_000])?;
//! let made = generate_key(&dir.join("demo"))?;
//! let key = read_secret_key(&made.private)?.key;
//! let spec = BuildSpec {
//!     images: vec![ImageFile { name: "root".into(), slot: None, path: dir.join("rootfs.ext4") }],
//!     ..BuildSpec::new("{demo}", Version::parse("1.0.0")?, Sequence::new(1).unwrap(), "2026-01-01T00:00:00Z".parse()?, dir)
//! };
//! let built = build_release(&spec, &[key], &mut |_| {})?;
//!
//! let keyring = read_keyring(dir, std::num::NonZeroU32::MIN)?;
//! let release = check_record(&built.record_path, &keyring)?;
//! let checked = check_payload(&release, &built.payload_path, None, std::num::NonZeroUsize::MIN, &mut |_| {})?;
//! assert_eq!((checked.right, checked.wrong), (2, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::{Path, PathBuf};

use manifests::version::Version;

mod build;
mod check;
mod delta;
mod error;
mod files;
mod folder;
mod images;
mod inspect;
mod keys;
mod source;

pub use build::{BuildSpec, BuiltRelease, Existing, ImageFile, build_release};
pub use check::{CheckedPayload, PayloadOrigin, SignedRecord, check_payload, check_record, sign_record};
pub use delta::{BuiltDelta, DeltaSpec, MAX_PERCENT_OF_FULL, Step, build_delta};
pub use error::Error;
pub(crate) use files::A_DIRECTORY;
pub use files::read_text;
pub(crate) use images::label;
pub use images::{LeanedOn, Published};
pub use inspect::{
    Explanation, FrameSummary, ImageContents, ImageSummary, Inspection, KindSummary, OtherFiles, Packed, PayloadSummary,
    RecordSummary, Share, Warning, What, explain, inspect,
};
pub use keys::{GeneratedKey, LoadedKey, generate_key, read_keyring, read_secret_key};
pub use source::TREE_IMAGE;

/// Where the full payload of a release is, as a rule: beside its record.
fn payload_beside(record: &Path, version: &Version) -> PathBuf {
    record.with_file_name(format!("{version}.payload"))
}

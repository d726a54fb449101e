//! What the commands found, in words or as JSON.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use manifests::keyring::KeyId;
use manifests::release::{Record, Release};
use payload::format::{FrameTable, Source};
use serde_json::{Value, json};

use super::words::{chain, percent, size};
use super::{hints, json_line};
use crate::publisher::{BuiltDelta, BuiltRelease, CheckedPayload, Error, GeneratedKey, PayloadOrigin, SignedRecord};

/// Most faults shown of one payload; the numbers count them all.
const FAULTS_SHOWN: usize = 8;

pub(super) fn key(key: &GeneratedKey, as_json: bool) -> String {
    let (private, public) = (key.private.display(), key.public.display());
    if as_json {
        return json_line(&json!({"key_id": key.id, "private": path(&key.private), "public": path(&key.public)}));
    }
    format!(
        "key {}\n  {private}  private, mode 0600: keep it offline\n  {public}  public: goes into the keyring folder of the hosts\n",
        key.id
    )
}

pub(super) fn built(built: &BuiltRelease, as_json: bool) -> String {
    let (record, header) = (&built.record, built.table.header());
    let image_bytes = record.images.iter().map(|image| image.table.image_size()).sum::<u64>();
    if as_json {
        return json_line(&json!({
            "record": path(&built.record_path), "record_bytes": built.record_bytes,
            "payload": path(&built.payload_path), "payload_bytes": header.total_len(), "payload_table_sha256": header.table_sha256(),
            "image_bytes": image_bytes, "read_back_bytes": own_bytes(&built.table), "digest": built.digest, "version": record.version, "sequence": record.sequence,
            "signers": built.signers, "claimed_signers": built.claimed_signers, "dropped_signers": built.dropped_signers,
            "mended_signers": built.mended_signers, "mended_payload": built.mended_payload, "was_there": built.was_there,
            "verity": built.verity().map(|(image, verity)| json!({"image": image, "root_hash": verity.root_hash, "salt": verity.salt})),
            "same_sequence": built.same_sequence.iter().map(|other| path(other)).collect::<Vec<_>>(),
        }));
    }
    let title = title(record);
    let payload_bytes = header.total_len();
    let said = if built.was_there { " is this release already".to_owned() } else { format!("  {}", size(built.record_bytes)) };
    let verity = built.verity().map(|(image, verity)| format!("  verity   root hash of {image}: {}", verity.root_hash));
    let lines = [
        title,
        format!("  digest   {}", built.digest),
        format!("  record   {}{said}, {}", built.record_path.display(), signatures(&built.signers, &built.claimed_signers)),
        format!(
            "  payload  {}  {}, {} of the images' {}",
            built.payload_path.display(),
            size(payload_bytes),
            percent(payload_bytes, image_bytes),
            size(image_bytes)
        ),
    ];
    lines.into_iter().chain(read_back_words(&built.table)).chain(verity).collect::<Vec<_>>().join("\n") + "\n"
}

pub(super) fn delta(built: &BuiltDelta, as_json: bool) -> String {
    let BuiltDelta { path: file, from, to, table, full_bytes } = built;
    let bytes = table.header().total_len();
    let own = own_bytes(table);
    if as_json {
        return json_line(&json!({
            "payload": path(file), "payload_bytes": bytes, "payload_table_sha256": table.header().table_sha256(), "full_bytes": full_bytes,
            "from": {"version": from.version, "sequence": from.sequence}, "to": {"version": to.version, "sequence": to.sequence},
            "read_back_bytes": own,
        }));
    }
    let full =
        full_bytes.map_or_else(String::new, |full| format!(", {} of the full payload's {}", percent(bytes, full), size(full)));
    let title = format!(
        "delta from {} (sequence {}) to {} (sequence {}) of {}",
        from.version, from.sequence, to.version, to.sequence, to.product
    );
    let payload = format!("  payload  {}  {}{full}", file.display(), size(bytes));
    [title, payload].into_iter().chain(read_back_words(table)).collect::<Vec<_>>().join("\n") + "\n"
}

/// Bytes of a slot that are read again while it is written, because later frames lean on them.
fn own_bytes(table: &FrameTable) -> u64 {
    let own = table.frames().flat_map(|frame| frame.extents()).filter(|extent| extent.source == Source::Target);
    own.map(|extent| extent.length).fold(0, u64::saturating_add)
}

/// A line on what a host reads again, if it does.
fn read_back_words(table: &FrameTable) -> Option<String> {
    let images = table.images().iter().map(|image| image.size).sum();
    let own = own_bytes(table);
    let words =
        || format!("  reads    {} of the slot again while it is written, {} of the images", size(own), percent(own, images));
    (own > 0).then(words)
}

pub(super) fn signed(file: &Path, signed: &SignedRecord, as_json: bool) -> String {
    let SignedRecord { record, signers, claimed_signers, mended_signers } = signed;
    if as_json {
        return json_line(&json!({
            "record": path(file), "version": record.version, "sequence": record.sequence, "signers": signers,
            "claimed_signers": claimed_signers, "mended_signers": mended_signers,
        }));
    }
    format!("{}\n  record   {}  {}\n", title(record), file.display(), signatures(signers, claimed_signers))
}

fn title(record: &Record) -> String {
    let Record { product, version, sequence, arch, board, .. } = record;
    format!("release {version} of {product}, sequence {sequence}, for {arch}/{board}")
}

/// Who signed: what is known, and what a file only claims.
fn signatures(signers: &[KeyId], claimed: &[KeyId]) -> String {
    let claims = || format!("claimed by {} (not checked)", join(claimed));
    match (signers, claimed) {
        ([], []) => "signed by nobody yet".to_owned(),
        (_, []) => format!("signed by {}", join(signers)),
        ([], _) => claims(),
        _ => format!("signed by {}; {}", join(signers), claims()),
    }
}

pub(super) fn join(ids: &[KeyId]) -> String {
    ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

/// What `verify` found.
pub(super) struct Verification<'a> {
    path: &'a Path,
    release: &'a Release,
    threshold: NonZeroU32,
    payloads: Vec<(PathBuf, Result<CheckedPayload, Error>)>,
}

impl<'a> Verification<'a> {
    pub(super) const fn new(
        path: &'a Path,
        release: &'a Release,
        threshold: NonZeroU32,
        payloads: Vec<(PathBuf, Result<CheckedPayload, Error>)>,
    ) -> Self {
        Self { path, release, threshold, payloads }
    }

    pub(super) fn good(&self) -> bool {
        self.payloads.iter().all(|(_, result)| is_good(result))
    }

    pub(super) fn to_words(&self) -> String {
        let release = self.release;
        let mut text = format!("{}: good\n  {}\n", self.path.display(), title(release.record()));
        text += &format!("  digest {}\n", release.digest());
        text += &format!("  signed by {} (needed: {})\n", join(release.signers()), self.threshold);
        for (path, result) in &self.payloads {
            text += &payload_words(path, result);
        }
        text
    }

    pub(super) fn to_json(&self) -> String {
        let record = self.release.record();
        let payloads: Vec<Value> = self.payloads.iter().map(|(path, result)| payload_json(path, result)).collect();
        json_line(&json!({
            "good": self.good(),
            "record": {
                "path": path(self.path), "good": true, "digest": self.release.digest(), "product": record.product, "version": record.version,
                "sequence": record.sequence, "signers": self.release.signers(), "threshold": self.threshold,
            },
            "payloads": payloads,
        }))
    }
}

const fn is_good(result: &Result<CheckedPayload, Error>) -> bool {
    matches!(result, Ok(checked) if checked.wrong == 0)
}

fn payload_words(path: &Path, result: &Result<CheckedPayload, Error>) -> String {
    let path = path.display();
    let checked = match result {
        Ok(checked) => checked,
        Err(error) => {
            let hint = hints::for_error(error).map_or_else(String::new, |hint| format!("  hint: {hint}\n"));
            return format!("{path}: BAD\n  {}\n{hint}", chain(error));
        }
    };
    let windows = checked.right + checked.wrong;
    if checked.wrong == 0 {
        let whose = match checked.origin {
            PayloadOrigin::Publisher => "the publisher's own payload",
            PayloadOrigin::SomebodyElse => "not the payload that the record names, but it fits",
            PayloadOrigin::Unknown => "the record names no payload, and this one fits",
        };
        return format!("{path}: good\n  {whose}; all {windows} windows equal the record\n");
    }
    let mut text = format!("{path}: BAD\n  {} of {windows} windows differ from the record, or cannot be made\n", checked.wrong);
    for fault in checked.faults.iter().take(FAULTS_SHOWN) {
        text += &format!("  {}\n", fault.reason);
    }
    if checked.faults.len() > FAULTS_SHOWN {
        text += "  … and more\n";
    }
    text
}

fn payload_json(file: &Path, result: &Result<CheckedPayload, Error>) -> Value {
    match result {
        Err(error) => json!({"path": path(file), "good": false, "error": chain(error)}),
        Ok(checked) => json!({
            "path": path(file), "good": checked.wrong == 0, "windows_right": checked.right, "windows_wrong": checked.wrong,
            "is_the_publishers": checked.origin == PayloadOrigin::Publisher,
            "faults": checked.faults.iter().map(|fault| fault.reason.as_str()).collect::<Vec<_>>(),
        }),
    }
}

/// A path in JSON, which is text: bytes of a name that are none are shown as such.
fn path(path: &Path) -> String {
    path.display().to_string()
}

//! What `inspect` found, in words or as JSON.

use std::path::Path;

use manifests::keyring::KeyId;
use manifests::release::Notes;
use serde_json::Value;

use super::json_line;
use super::words::{count, harmless, percent, size};
use crate::publisher::{
    Explanation, FrameSummary, ImageSummary, Inspection, Packed, PayloadSummary, RecordSummary, Share, Warning, What, label,
};

pub(super) fn inspection(path: &Path, found: &Inspection, as_json: bool) -> String {
    if as_json {
        return json_line(&serde_json::to_value(found).unwrap_or(Value::Null));
    }
    match found {
        Inspection::Record(record) => record_words(path, record),
        Inspection::Payload(payload) => payload_words(path, payload),
    }
}

fn record_words(path: &Path, record: &RecordSummary) -> String {
    let or = |list: Vec<String>, none: &str| if list.is_empty() { none.to_owned() } else { list.join(", ") };
    let ids = |ids: &[KeyId]| ids.iter().map(KeyId::to_string).collect::<Vec<_>>();
    let floor =
        if record.not_below == 0 { "none".to_owned() } else { format!("nothing below sequence {} afterwards", record.not_below) };
    let source = record.minimum_source.map_or_else(|| "any release".to_owned(), |n| format!("sequence {n} or newer"));
    let table = record.payload_table_sha256.map_or_else(|| "not named".to_owned(), |digest| format!("frame table {digest}"));
    let lines = [
        format!("{}: release record, NOT VERIFIED (releasectl verify checks signatures)", path.display()),
        format!("  product    {}", record.product),
        format!("  version    {}", record.version),
        format!("  sequence   {}", record.sequence),
        format!("  for        {}/{}", record.arch, record.board),
        format!("  created    {}", record.created),
        format!("  floor      {floor}"),
        format!("  from       {source}"),
        format!("  channels   {}", or(record.channels.clone(), "any")),
        format!("  urgent     {}", if record.urgent { "yes" } else { "no" }),
        format!("  revokes    {}", or(ids(&record.revoked_keys), "no key")),
        format!("  digest     {}", record.digest),
        format!("  payload    {table}"),
        format!("  claims to be signed by {}", or(ids(&record.claimed_signers), "nobody")),
    ];
    lines.join("\n") + "\n" + &images_words("images", &record.images) + &notes_words(record.notes.as_ref())
}

fn notes_words(notes: Option<&Notes>) -> String {
    match notes {
        None => String::new(),
        Some(Notes::Url { url, sha256 }) => format!("  notes      {} (sha256 {sha256})\n", harmless(url)),
        Some(Notes::Text(text)) => {
            "  notes\n".to_owned() + &text.lines().map(|line| format!("    {}\n", harmless(line))).collect::<String>()
        }
    }
}

fn payload_words(path: &Path, payload: &PayloadSummary) -> String {
    let mut text = payload_head(path, payload) + &images_words("images", &payload.images);
    if !payload.sources.is_empty() {
        text += &images_words("source images", &payload.sources);
    }
    text += "  frames\n";
    for kind in &payload.frames {
        let name = format!("{} {}", kind.kind, kind.name);
        let (frames, windows) = (count(kind.frames, "frame"), count(kind.windows, "window"));
        let (output, blobs) = (size(kind.output_bytes), size(kind.blob_bytes));
        let ratio = percent(kind.blob_bytes, kind.output_bytes);
        text += &format!("    {name:<18} {frames:>13}  {windows:>15}  {output:>10} from {blobs:>10}  {ratio:>7}\n");
    }
    if !payload.largest.is_empty() {
        text += "  largest frames, each with its part of the payload\n";
    }
    text += &payload.largest.iter().map(|frame| frame_words(frame, payload.size)).collect::<String>();
    text + &payload.release.as_ref().map_or_else(String::new, |release| release_words(release, payload.size))
}

fn payload_head(path: &Path, payload: &PayloadSummary) -> String {
    let kind = if payload.sources.is_empty() {
        "full: needs no other image".to_owned()
    } else {
        format!("delta: needs {}", count(length(&payload.sources), "source image"))
    };
    let (bytes, image_bytes) = (payload.size, payload.image_bytes);
    let ratio = percent(bytes, image_bytes);
    let mut lines = vec![
        format!("{}: payload, NOT VERIFIED (releasectl verify compares it with a record)", path.display()),
        format!("  kind       {kind}"),
        format!("  size       {} ({bytes} bytes), {ratio} of the images' {}", size(bytes), size(image_bytes)),
    ];
    let full_bytes = payload.release.as_ref().and_then(|release| release.full_bytes).filter(|_| !payload.sources.is_empty());
    lines.extend(full_bytes.map(|full| saved_words(bytes, full)));
    lines.push(format!("  table      {}, sha256 {}", size(payload.table_bytes), payload.table_sha256));
    lines.join("\n") + "\n"
}

fn saved_words(bytes: u64, full: u64) -> String {
    let compared = format!("{} instead of the full payload's {}", size(bytes), size(full));
    match full.checked_sub(bytes) {
        Some(saved) => format!("  saved      {}: {compared}", percent(saved, full)),
        None => format!("  saved      nothing: {compared}"),
    }
}

fn frame_words(frame: &FrameSummary, payload_bytes: u64) -> String {
    let (first, last) = (frame.first_window, frame.first_window.saturating_add(frame.windows.saturating_sub(1)));
    let windows = if first == last { format!("window {first}") } else { format!("windows {first} to {last}") };
    let image = label(&frame.image, frame.slot);
    let (blob, output) = (size(frame.blob_bytes), size(frame.output_bytes));
    let mut text = format!("    {blob:>10}  {:>7}  ", percent(frame.blob_bytes, payload_bytes));
    text += &format!("frame {}: {windows} of {image}, {output} at byte {}", frame.frame, frame.offset);
    text += &format!(", {} {}\n", frame.kind, frame.name);
    if !frame.files.is_empty() {
        let share = |share: &Share| format!("{} {}", percent(share.image_bytes, frame.output_bytes), owner_words(share));
        let shares = frame.files.iter().map(share).collect::<Vec<_>>();
        text += &format!("                         {}\n", shares.join(", "));
    }
    text
}

fn release_words(release: &Explanation, payload_bytes: u64) -> String {
    let mut text = format!("  makes      release {}, sequence {}\n", release.version, release.sequence);
    for image in &release.images {
        let packed = image.packed_with.map_or_else(String::new, |codec| format!(" compressed with {codec}"));
        let what = image.file_system.map_or_else(String::new, |kind| format!("{kind}{packed}, "));
        let note = image.note.as_ref().map_or_else(String::new, |note| format!("; {}", harmless(note)));
        let bytes = size(image.blob_bytes);
        text += &format!("    {}  {what}{bytes} of the payload{note}\n", label(&image.name, image.slot));
    }
    let row = |bytes: u64, what: &str| format!("    {:>10}  {:>7}  {what}\n", size(bytes), percent(bytes, payload_bytes));
    text += "  files, with the bytes of the payload that go to them (of each frame by length)\n";
    let shares =
        |shares: &[Share]| -> String { shares.iter().map(|share| row(share.blob_bytes, &whole_owner_words(share))).collect() };
    text += &shares(&release.files);
    if release.other_files.files > 0 {
        text += &row(release.other_files.blob_bytes, &count(release.other_files.files, "other file"));
    }
    text += &shares(&release.besides);
    if !release.warnings.is_empty() {
        text += "  warnings\n";
    }
    text + &release.warnings.iter().map(|warning| warning_words(warning, payload_bytes)).collect::<String>()
}

/// Of a part of an image that is known.
fn owner_words(share: &Share) -> String {
    match (share.what, &share.path) {
        (What::File, Some(path)) => harmless(path),
        (What::File, None) => "a file".to_owned(),
        (What::Metadata, _) => "metadata".to_owned(),
        (What::Free, _) => "free space".to_owned(),
        (What::Unknown, _) => "not known".to_owned(),
    }
}

/// As [`owner_words`], with the image.
fn whole_owner_words(share: &Share) -> String {
    let image = label(&share.image, share.slot);
    match share.what {
        What::File => format!("{image}: {}", owner_words(share)),
        What::Metadata => format!("{image}: metadata of the file system"),
        What::Free => format!("{image}: free space"),
        What::Unknown => format!("{image}: not known whose"),
    }
}

fn warning_words(warning: &Warning, payload_bytes: u64) -> String {
    let image = label(&warning.image, warning.slot);
    let codecs = warning.packed_with.join(", ");
    let path = warning.path.as_ref().map_or_else(String::new, |path| format!(": {}", harmless(path)));
    let files = |noun| count(warning.files, noun);
    let (what, is) = match (warning.packed, warning.file_system) {
        (Packed::Image, Some(kind)) => (format!("image {image}"), format!("is a {kind}")),
        (Packed::Image, None) => (format!("image {image}"), "is".to_owned()),
        (Packed::Kernel | Packed::File, _) => (format!("{image}{path}"), "is".to_owned()),
        (Packed::Modules, _) => (format!("{image}: {}", files("kernel module")), be(warning.files)),
        (Packed::Files, _) => (format!("{image}: {}", files("smaller file")), be(warning.files)),
    };
    let hint = match (warning.packed, warning.file_system) {
        (Packed::Image, Some(_)) => "build the image uncompressed (ext4, or erofs without -z): the payload is compressed anyway",
        (Packed::Kernel, _) => {
            "a kernel that stays the same costs next to nothing; give an uncompressed one where the machine boots it"
        }
        (Packed::Modules, _) => "install the modules uncompressed: of each, deltas then carry what changed",
        (Packed::Files, _) => {
            "store them uncompressed: deltas then carry what changed in them, and the payload is compressed anyway"
        }
        _ => "store it uncompressed: deltas then carry what changed in it, and the payload is compressed anyway",
    };
    let (bytes, part, all) = (size(warning.blob_bytes), percent(warning.blob_bytes, payload_bytes), size(payload_bytes));
    let cost = if warning.files > 1 { "cost" } else { "costs" };
    format!("    {what} {is} compressed with {codecs}, and {cost} {bytes} of this payload's {all} ({part})\n      hint: {hint}\n")
}

fn be(number: u64) -> String {
    if number == 1 { "is" } else { "are" }.to_owned()
}

fn images_words(title: &str, images: &[ImageSummary]) -> String {
    let mut text = format!("  {title}\n");
    for image in images {
        let slot = image.slot.map_or_else(String::new, |slot| format!(" (slot {slot} only)"));
        let windows = count(image.windows, "window");
        let of = size(u64::from(image.window_size));
        text += &format!("    {}{slot}  {} ({} bytes), {windows} of {of}, ", image.name, size(image.size), image.size);
        text += &format!("table sha256 {}\n", image.table_sha256);
        if let Some(verity) = &image.verity {
            text += &format!("      dm-verity root hash {}, salt {}\n", verity.root_hash, or_none(&verity.salt));
        }
    }
    text
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn length<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

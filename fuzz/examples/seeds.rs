//! Makes the seeds that are not samples of the field: `cargo run --release --example seeds` in this folder writes `seeds/*/made-*`.
//!
//! They are valid inputs of every kind, so that a fuzzer starts behind the first checks. Run it again when a format changes.

use std::fs;
use std::io;
use std::path::Path;

use fuzz::{payload_file, record};

fn main() -> io::Result<()> {
    formats()?;
    #[cfg(feature = "lock")]
    lock::seeds()?;
    #[cfg(feature = "host")]
    host::seeds()?;
    Ok(())
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("made-{name}")), bytes)
}

fn formats() -> io::Result<()> {
    omaha()?;
    records()?;
    payloads()
}

fn omaha() -> io::Result<()> {
    use manifests::omaha::{
        AppAnswer, AppRequest, Codebase, ErrorCode, Event, EventResult, EventType, Hold, Package, PackageKind, PackageName, Ping,
        Postinstall, Request, Response, ServerError, Update, UpdateAnswer, Verdict,
    };
    use manifests::version::{Sequence, Version};

    let failure =
        Event { previous_version: Some("1.0.0".into()), attempt: Some("a-1".into()), ..Event::failure(ErrorCode::http(503)) };
    let event = Event { reason: Some("it's \"done\"".into()), ..Event::new(EventType::UpdateComplete, EventResult::Success) };
    let app = AppRequest {
        app_id: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}".into(),
        version: "1.0.0".into(),
        track: "stable".into(),
        machine_id: "{0123456789abcdef0123456789abcdef}".into(),
        ota_sequence: Sequence::new(7),
        ota_slot: Some("a".into()),
        ota_attempt: Some("a-1".into()),
        ping: Some(Ping { active: true }),
        update_check: true,
        events: vec![failure, event],
        ..AppRequest::default()
    };
    seed("omaha_request", "full", Request { apps: vec![app], ..Request::default() }.write())?;
    seed("omaha_request", "bare", Request::default().write())?;

    let (one, two) = (Version::parse("1.0.0").expect("a version"), Version::parse("2.0.0").expect("a version"));
    let package = |name, size_bytes, kind| Package {
        name,
        size_bytes,
        sha1: Some([1; 20]),
        sha256: Some(manifests::digest::Sha256Digest::of(b"x")),
        required: true,
        kind,
    };
    let update = Update {
        codebases: ["https://user:secret@updates.example/a/", "http://10.0.0.1:8080/"]
            .map(|url| Codebase::parse(url).expect("a codebase"))
            .to_vec(),
        packages: vec![
            package(PackageName::payload_of(&two), 7, PackageKind::Plain),
            package(PackageName::record_of(&two), 9, PackageKind::Plain),
            package(PackageName::delta_of(&one, &two), 5, PackageKind::Delta),
        ],
        version: two,
        postinstall: Postinstall::of(manifests::digest::Sha256Digest::of(b"y")),
    };
    let until = Some("2026-01-01T00:00:00Z".parse().expect("a time"));
    let hold = Hold { kind: Some("window".into()), reason: Some("outside the group's window".into()), until };
    let refused = ServerError { status: Some("error-internal".into()), app_status: None, info: Some("sorry".into()) };
    for (name, verdict) in [
        ("update", Verdict::Update(update)),
        ("hold", Verdict::NoUpdate { hold: Some(hold) }),
        ("no-update", Verdict::NoUpdate { hold: None }),
        ("refused", Verdict::ServerError(refused)),
    ] {
        let check = UpdateAnswer { poll_interval_s: Some(600), verdict };
        let app_id = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}".to_owned();
        let app = AppAnswer { app_id, status: "ok".into(), ping: true, update_check: Some(check), events: 2 };
        seed("omaha_response", name, Response { server: "x".into(), apps: vec![app] }.write())?;
    }
    Ok(())
}

fn records() -> io::Result<()> {
    use manifests::keyring::SecretKey;
    use manifests::release::Envelope;

    for (number, sample) in record::samples().iter().enumerate() {
        let signed = record::signed(sample).to_bytes();
        seed("release_record", &format!("signed-{number}"), &signed)?;
        seed("release_json", &format!("{number}"), json_of(&signed))?;
        let number = u8::try_from(number).expect("three samples");
        seed("release_edits", &format!("{number}-one-bit"), [number, 0, 0, 40, 1])?;
    }
    let sample = &record::samples()[0];
    let mut envelope = Envelope::unsigned(sample).expect("a sound record");
    seed("release_record", "unsigned", envelope.to_bytes())?;
    envelope.sign(&SecretKey::from_seed(&[7; 32])).expect("a key that has not signed yet");
    seed("release_record", "signed-once", envelope.to_bytes())?;
    seed("release_edits", "none", [0])?;
    seed("release_edits", "signature-twice", [0, 5, 0, 0, 0])?;
    seed("release_edits", "key-id-and-cut", [0, 1, 1, 200, 9, 4, 2, 0, 0])?;
    let key = SecretKey::from_seed(&[7; 32]);
    seed("key_file", "public", key.public().to_text("release 2026"))?;
    seed("key_file", "secret", key.to_text("release 2026"))?;
    let behind =
        |text: &str| text.split_once('\n').map(|(comment, key)| format!("{} {comment}\n", key.trim())).unwrap_or_default();
    seed("key_file", "public-behind", behind(&key.public().to_text("release 2026")))?;
    seed("key_file", "secret-behind", behind(&key.to_text("release 2026")))?;
    let by_hand = key.public().to_text("release 2026").replace("# ed25519 public key, id", "## ED25519 PUBLIC KEY; ID:");
    seed("key_file", "by-hand", by_hand)?;
    seed("key_file", "two", format!("{}\n{}", key.public().to_text("a"), key.public().to_text("b")))
}

/// A signed part as the JSON target takes it: number of windows, JSON with `@N` for the digests of tables.
fn json_of(record: &[u8]) -> Vec<u8> {
    let length = |at: usize| usize::from(u16::from_le_bytes([record[at], record[at + 1]]));
    let text = String::from_utf8(record[32..32 + length(8)].to_vec()).expect("JSON");
    let mut json = text.split_once('\n').expect("the domain line").1.to_owned();
    for windows in 0..9 {
        let digest = manifests::digest::Sha256Digest::of(&vec![0; windows * 32]).to_string();
        json = json.replace(&digest, &format!("@{windows}"));
    }
    let windows = u8::try_from(length(24) / 32).expect("few windows");
    [&[windows], json.as_bytes()].concat()
}

fn payloads() -> io::Result<()> {
    use payload::format::{Extent, Source};
    use payload_file::{PlainFrame, encode_frames, encode_table};

    let (root, boot) = (&payload_file::IMAGES[0], &payload_file::IMAGES[1]);
    let old = &*payload_file::OLD;
    let (images, sources) = payload_file::entries();
    let frame = |kind, output_offset, windows, blob: &[u8], extents| {
        let blob_len = blob.len() as u64;
        (PlainFrame { kind, output_offset, windows, blob_len, extents }, blob.to_vec())
    };
    let of_old = |offset, length| Extent { source: Source::Image(0), offset, length };
    let (first, last) = root.split_at(262_144);

    let full = vec![
        frame(2, 0, 1, &zstd(first, &[]), vec![]),
        frame(1, 262_144, 1, last, vec![]),
        frame(2, 0, 1, &zstd(boot, &[]), vec![]),
    ];
    let whole = vec![frame(2, 0, 2, &zstd(root, &[]), vec![]), frame(1, 0, 1, boot, vec![])];
    let own = Extent { source: Source::Target, offset: 1_000, length: 30_000 };
    let delta = vec![
        frame(4, 0, 1, &zstd(first, &old[12_000..40_000]), vec![of_old(12_000, 28_000)]),
        frame(4, 262_144, 1, &zstd(last, &first[1_000..31_000]), vec![own]),
        frame(3, 0, 1, &[], vec![of_old(500, 5_000)]),
    ];
    let wrong =
        vec![frame(0, 0, 2, &[], vec![]), frame(4, 0, 1, &zstd(boot, &old[..700]), vec![of_old(0, 300), of_old(300, 400)])];
    let later =
        vec![frame(5, 0, 1, b"later", vec![of_old(0, 9)]), frame(200, 262_144, 1, b"?", vec![]), frame(0, 0, 1, &[], vec![])];
    let differs = difference(&[(500, 4_000, 1_000)], &[0; 4_000], &zstd(&boot[4_000..], old));
    let of_all = vec![of_old(0, old.len() as u64)];
    let changed = vec![
        frame(4, 0, 1, &zstd(first, old), of_all.clone()),
        frame(1, 262_144, 1, last, vec![]),
        frame(5, 0, 1, &differs, of_all),
    ];
    let zeros = vec![frame(0, 0, 2, &[], vec![]), frame(0, 0, 1, &[], vec![])];
    for (name, frames) in [
        ("full", full),
        ("whole", whole),
        ("delta", delta),
        ("wrong", wrong),
        ("later", later),
        ("changed", changed),
        ("zeros", zeros),
    ] {
        let (frames, blobs): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let table = encode_table(images, sources, &frames);
        let total = (64 + table.len()) as u64 + frames.iter().map(|frame| frame.blob_len).sum::<u64>();
        seed("payload_frame_table", &format!("{name}-file"), [payload_file::header(&table, total), table.clone()].concat())?;
        seed("payload_frame_table", name, table)?;
        let frames = encode_frames(&frames);
        let length = u16::try_from(frames.len()).expect("few frames").to_be_bytes();
        let payload = [&length[..], &frames, &blobs.concat()].concat();
        for (scene, what) in [(0, "full"), (1, "delta"), (3, "delta-astray"), (5, "delta-begun")] {
            seed("payload_install", &format!("{name}-{what}"), [&[scene], payload.as_slice()].concat())?;
        }
        seed("payload_decode", name, payload)?;
    }
    // It leans on the first 5,501 bytes of the source.
    let source = &old[..5_501];
    let differs = difference(&[(500, 4_000, 1_000)], &[0; 4_000], &zstd(&boot[4_000..], source));
    seed("payload_blob", "difference", [&[2, 0, 0, 21, 124], differs.as_slice()].concat())?;
    seed("payload_blob", "zstd", [&[0; 5], &zstd(boot, &[])[..]].concat())?;
    // A prefix of 3,000 bytes from byte 600 of the source.
    seed("payload_blob", "prefix", [&[1, 2, 88, 11, 183], &zstd(boot, &old[600..3_600])[..]].concat())?;
    seed("payload_blob", "other", [&[0; 5], &zstd(&vec![b'x'; boot.len()], &[])[..]].concat())
}

/// A difference of these steps (how far to go in the source, bytes taken there, bytes of its own), what is added, and a frame of its own bytes.
fn difference(steps: &[(u16, u16, u16)], added: &[u8], literal: &[u8]) -> Vec<u8> {
    let varint = |mut value: u64| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    let numbers = |(seek, add, own): &(u16, u16, u16)| [2 * u64::from(*seek), u64::from(*add), u64::from(*own)];
    let steps: Vec<u8> = steps.iter().flat_map(numbers).flat_map(varint).collect();
    let (steps, added) = (zstd(&steps, &[]), zstd(added, &[]));
    [varint(steps.len() as u64), varint(added.len() as u64), steps, added, literal.to_vec()].concat()
}

/// One zstd frame with its content size, as payloads have it.
fn zstd(bytes: &[u8], prefix: &[u8]) -> Vec<u8> {
    use zstd::zstd_safe::{CCtx, CParameter, compress_bound};

    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(19)).expect("a level");
    context.set_parameter(CParameter::WindowLog(20)).expect("a window");
    context.ref_prefix(prefix).expect("a prefix");
    let mut out = Vec::with_capacity(compress_bound(bytes.len()));
    context.compress2(&mut out, bytes).expect("it can be compressed");
    out
}

#[cfg(feature = "lock")]
mod lock {
    use std::io;

    use locksmith::names::{AttemptId, HostId, Label};
    use locksmith::semaphore::queue::Queue;
    use locksmith::semaphore::{Document, Facts, Max, Moment, Mono, Op, UNNAMED, decide};

    use super::seed;

    pub fn seeds() -> io::Result<()> {
        for (name, ota) in [
            ("plain", ""),
            (
                "take",
                r#","ota":{"attempt":"5d1c0f3e-0000-4000-8000-000000000001","boot_id":"b","product":"p","version":"1.0.0","sequence":7}"#,
            ),
            ("renew", r#","ota":{"attempt":"a-1","phase":"draining","fence":7}"#),
            ("reboot", r#","ota":{"attempt":"a-1","phase":"rebooting","fence":7,"deadline_s":600}"#),
            ("release", r#","ota":{"attempt":"a-1","outcome":"rolled-back","x":null}"#),
        ] {
            seed("fleetlock_request", name, format!(r#"{{"client_params":{{"id":"h-1","group":"web.eu-1"}}{ota}}}"#))?;
        }
        let reply =
            |status: u16, headers: &str, body: &str| [&status.to_le_bytes(), headers.as_bytes(), body.as_bytes()].concat();
        for (name, bytes) in [
            ("ours", reply(200, "application/json\0\0\0", r#"{"attempt":"a-1","fence":7,"phase":"draining","lease_s":600}"#)),
            ("plain", reply(200, "text/plain\0\0\0", "obtained reboot lease")),
            ("page", reply(200, "text/html\0\0\0", "<!DOCTYPE html><title>Login</title>")),
            ("error", reply(200, "\0\0\0", r#"{"kind":"other","value":"message"}"#)),
            ("full", reply(423, "\0\017\0", r#"{"kind":"full","value":"h holds it","retry_after_s":5,"holders":[]}"#)),
            ("redirect", reply(302, "\0https://login.example/\0\0", "")),
            ("conflict", reply(409, "\0\0Fri, 31 Dec 1999 23:59:59 GMT\0", r#"{"kind":"failed_lock","value":"conflict"}"#)),
        ] {
            seed("fleetlock_reply", name, bytes)?;
        }
        let holder = r#"{"id":"h","tag":"0123abcd","since":"2026-01-01T00:00:00Z","phase":"draining","phase_since":"2026-01-01T00:00:00Z","fence":7,"stands":"draining"}"#;
        let group = r#""schema":1,"group":"g","max":2,"available":1"#;
        for (name, body) in [
            ("grant", r#"{"attempt":"a-1","fence":7,"phase":"rebooting","lease_s":30}"#.to_owned()),
            ("released", r#"{"released":true}"#.to_owned()),
            ("plain-refusal", r#"{"kind":"failed_lock","value":"all 2 semaphore slots currently locked"}"#.to_owned()),
            (
                "refusal",
                format!(
                    r#"{{"kind":"full","value":"v","holders":[{holder}],"holders_total":1,"max":1,"place":2,"retry_after_s":5}}"#
                ),
            ),
            (
                "group",
                format!(
                    r#"{{{group},"holders":[{holder}],"waiting":[{{"id":"w","since":"2026-01-01T00:00:00Z"}}],"waiting_total":1,"revision":3}}"#
                ),
            ),
            ("groups", format!(r#"{{"schema":1,"groups":[{{{},"holders_total":1,"waiting_total":0}}]}}"#, &group[11..])),
            ("history", r#"{"schema":1,"group":"g","entries":[],"unreadable":1}"#.to_owned()),
            ("held", r#"{"fence":7,"already_since":"2026-01-01T00:00:00Z"}"#.to_owned()),
            ("max", r#"{"old_max":1,"max":2,"by":"me"}"#.to_owned()),
            ("hold", r#"{"id":"h","by":"me","reason":"disk","group":"g","max":1}"#.to_owned()),
            ("url", "https://user:secret@locks.example:8085/base".to_owned()),
        ] {
            seed("fleetlock_answer", name, body)?;
        }
        documents()
    }

    fn documents() -> io::Result<()> {
        let now = Moment { wall: "2026-01-01T00:00:00Z".parse().expect("a time"), mono: Mono::START };
        let id = |text| HostId::parse(text).expect("an id");
        let facts = Facts { product: Label::parse("product", "p").ok(), deadline_s: Some(600), ..Facts::default() };
        let attempt = AttemptId::parse("a-1").expect("an attempt");
        let mut document = Document::new(Max::new(3).expect("a maximum"));
        seed("lock_document", "empty", document.to_json().expect("JSON"))?;
        let hold = Op::Hold { id: id("h-1"), by: Label::parse("by", UNNAMED).expect("a label") };
        let held = decide(&document, 1, &Queue::default(), &hold, now).document.expect("a hold");
        seed("lock_document", "unnamed-hold", held.to_json().expect("JSON"))?;
        for op in [
            Op::Take { id: id("h-1"), attempt: Some(attempt.clone()), facts: facts.clone() },
            Op::Take { id: id("h-2"), attempt: None, facts: facts.clone() },
            Op::Hold { id: id("h-3"), by: Label::parse("by", "me").expect("a label") },
            Op::Reboot { id: id("h-1"), attempt, fence: None, facts },
        ] {
            document = decide(&document, 1, &Queue::default(), &op, now).document.unwrap_or(document);
        }
        seed("lock_document", "full", document.to_json().expect("JSON"))
    }
}

#[cfg(feature = "host")]
mod host {
    use std::io;

    use super::seed;

    pub fn seeds() -> io::Result<()> {
        config()?;
        kept()?;
        commands()?;
        heads()?;
        mounts()?;
        facts()?;
        rows()?;
        tables()?;
        loaders()?;
        trials()
    }

    /// Heads of answers as the target reads them: status, what is known, three numbers, headers by number.
    fn heads() -> io::Result<()> {
        let head = |pick: u8, known: u8, numbers: [u32; 3], headers: &[(u8, &str)]| {
            let lines = headers.iter().flat_map(|(name, value)| [&[*name], value.as_bytes(), b"\n"].concat());
            let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
            [pick, known].into_iter().chain(numbers).chain(lines).collect::<Vec<_>>()
        };
        let asked = [100, 100, 1000];
        seed("http_head", "part", head(0, 1, asked, &[(0, "bytes 100-199/1000"), (1, "100"), (3, "\"one\"")]))?;
        seed("http_head", "first-part", head(0, 2, asked, &[(0, "bytes 100-149/*"), (3, "\"one\"")]))?;
        seed("http_head", "whole", head(1, 3, asked, &[(1, "1000"), (3, "W/\"one\"")]))?;
        seed("http_head", "past-the-end", head(2, 0, asked, &[(0, "bytes */50"), (4, "120"), (5, "7")]))?;
        seed("http_head", "date", head(3, 0, asked, &[(4, "Thu, 01 Jan 2026 00:01:30 GMT"), (2, "gzip")]))
    }

    fn mounts() -> io::Result<()> {
        let root = "22 1 254:1 / / ro,relatime shared:1 - ext4 /dev/vda1 ro\n";
        let odd = "23 22 254:2 / /mnt/with\\040space\\134 rw - ext4 /dev/vda2 rw,errors=continue\n";
        let overlay = "24 22 0:30 / / rw,relatime - overlay overlay rw,lowerdir=/a\\:b:/c,upperdir=/u,workdir=/w\n";
        seed("mount_table", "host", [root, odd].concat())?;
        seed("mount_table", "overlay", overlay)
    }

    fn facts() -> io::Result<()> {
        seed(
            "host_facts",
            "command-line",
            "BOOT_IMAGE=/vmlinuz root=PARTLABEL=root-a \"mount.usr=/dev/disk/by-label/a b\" quiet -- x=1\n",
        )?;
        seed("host_facts", "quoted", "root=\"PARTUUID=0fc63daf-8483-4772-8e79-3d69d8477de4\" usr=\"x")?;
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        seed("host_facts", "swaps", format!("{heading}/dev/vda2    partition\t1024\t0\t-2\n/a\\040file\tfile\t8\t0\t-3\n"))?;
        seed("host_facts", "os-release", "# x\nVERSION_ID=\"13\"\nIMAGE_VERSION='1.2.0'\nVERSION_ID=a\\\"b\n")
    }

    fn rows() -> io::Result<()> {
        let claim = r#"{"url":"http://l/","group":"default","id":"h","fence":"7","granted":true}"#;
        let report = r#"{"message":"report","kind":"rolled-back","attempt":"a","running_version":"1","from_version":"1","to_version":"2","code":"health","reason":"r"}"#;
        let release = format!(r#"{{"message":"release","claim":{claim},"outcome":"rolled-back"}}"#);
        serde_json::from_str::<update_engine::engine::state::Claim>(claim).map_err(io::Error::other)?;
        for message in [report, &release] {
            serde_json::from_str::<update_engine::journal::Message>(message).map_err(io::Error::other)?;
        }
        seed("journal_rows", "claim", claim)?;
        seed("journal_rows", "report", report)?;
        seed("journal_rows", "release", release)
    }

    fn config() -> io::Result<()> {
        let minimal = "server.app_id = \"{e96281a6-d1af-4bde-9a0a-97b76e56dc57}\"\ndisk.device = \"/dev/vda\"\n\
                       slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\n";
        seed("config_toml", "minimal", minimal)?;
        let lock = "[reboot]\nstrategy = \"lock\"\nlock.backend = \"fleetlock\"\nlock.url = \"http://u:p@locks.example/\"\n";
        seed("config_toml", "merged", format!("{minimal}\0{lock}\0[health]\ndeadline_s = 60\nsettle_s = 5\n"))?;
        let every_key = |line: &str| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line).to_owned();
        let all: Vec<String> =
            update_engine::config::COMMENTED_DEFAULT.lines().map(every_key).filter(|line| !line.starts_with("# ")).collect();
        seed("config_toml", "every-key", all.join("\n"))?;
        seed("config_toml", "wrong", "server.chanel = 3\n[reboot]\nretry_s = \"1m\"\n[boot.grub]\nx = 1\n")?;
        seed("config_toml", "url", "https://user:long-password-here@host.example/x?token=1")
    }

    fn kept() -> io::Result<()> {
        seed("floor_file", "zero", "ota floor v1\nfloor 0\nhighest 0\nend\n")?;
        seed(
            "floor_file",
            "revoked",
            "ota floor v1\nfloor 3\nhighest 12\nrevoked 0123456789abcdef\nrevoked 0102030405060708\nend\n",
        )?;
        seed("floor_file", "image", "17\n")?;
        let plan = r#"{"attempt":"a-1","slot":"b","from_version":"1.0.0","version":"2.0.0","sequence":7,"digest":"0000000000000000000000000000000000000000000000000000000000000000","source":{"urls":["http://h/p"],"size":9},"image_bytes":9,"claim":{"url":"http://l/","group":"g","id":"h","fence":"7","granted":true},"giving_up":{"code":"c","message":"m","end":"waits","disarm":true},"started_at":1767225600000}"#;
        for (name, state) in [
            ("idle", r#"{"state":"idle"}"#.to_owned()),
            (
                "checking",
                r#"{"state":"checking","request":{"origin":{"files":{"release":"/r","payload":"/p"}},"check_only":true}}"#
                    .to_owned(),
            ),
            ("deferred", format!(r#"{{"state":"deferred","plan":{plan},"reason":"r","until":5}}"#)),
            ("fetching", format!(r#"{{"state":"fetching","plan":{plan},"rewrites":1}}"#)),
            ("proven", format!(r#"{{"state":"proven","plan":{plan},"step":"gate-closed"}}"#)),
            ("locked", format!(r#"{{"state":"locked","plan":{plan},"boot_id":"b","step":"giving-up"}}"#)),
            ("armed", format!(r#"{{"state":"armed","plan":{plan},"old_slot":"a","boot_id":"b","step":"resting"}}"#)),
            ("trial", format!(r#"{{"state":"trial","plan":{plan},"verdict":"v"}}"#)),
            ("failed", format!(r#"{{"state":"failed","plan":{plan},"code":"c","failures":2}}"#)),
        ] {
            let rest = r#""alarm":{"boot_id":"b","at":5,"at_wall":6},"pause":{"until":"2026-01-01T00:00:00Z","reason":null,"since":1},"channel":"beta""#;
            let model = format!(r#"{{"state":{state},{rest}}}"#);
            serde_json::from_str::<update_engine::engine::model::Model>(&model).map_err(io::Error::other)?;
            seed("journal_model", name, model)?;
        }
        Ok(())
    }

    fn commands() -> io::Result<()> {
        for (name, command) in [
            ("check", r#"{"command":"check"}"#),
            ("update", r#"{"command":"update","version":"2.0.0","allow_older":true,"no_reboot":true}"#),
            ("reboot", r#"{"command":"reboot","force":true}"#),
            ("pause", r#"{"command":"pause","until":"2026-01-01T00:00:00Z","reason":"disk"}"#),
            ("install", r#"{"command":"install","release":"/r","payload":"http://h/p"}"#),
            ("adopt", r#"{"command":"adopt","release":"/r"}"#),
            ("channel", r#"{"command":"channel","name":"beta"}"#),
        ] {
            seed("control_command", name, command)?;
        }
        Ok(())
    }

    /// Disks as the target makes them: flags, where the entries stand (primary, backup), both headers, entries.
    fn tables() -> io::Result<()> {
        let entry = |number: u8, first: u64, last: u64, bits: u64, label: &str| {
            let mut entry = vec![0x11; 16];
            entry.extend([number; 16]);
            for word in [first, last, bits] {
                entry.extend(word.to_le_bytes());
            }
            entry.extend(label.encode_utf16().flat_map(u16::to_le_bytes));
            entry.resize(128, 0);
            entry
        };
        let entries = [
            entry(1, 8, 15, 1 << 56, "root-a"),
            entry(2, 16, 23, 0x0032 << 48, "root-b"),
            entry(3, 24, 40, 0, "state"),
            vec![0; 128],
        ];
        let entries = entries.concat();
        let header = |own: u64, other: u64, entries: u64| {
            let mut bytes = b"EFI PART".to_vec();
            bytes.extend(0x0001_0000_u32.to_le_bytes());
            bytes.extend(92_u32.to_le_bytes());
            bytes.extend([0; 8]);
            for lba in [own, other, 4, 55] {
                bytes.extend(lba.to_le_bytes());
            }
            bytes.extend([0xD1; 16]);
            bytes.extend(entries.to_le_bytes());
            for word in [4_u32, 128, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes
        };
        let headers = [header(1, 63, 2), header(63, 1, 60)].concat();
        let disk = |flags: u8, backup_at: u8, entries: &[u8]| [&[flags, 2, backup_at], &headers[..], entries].concat();
        seed("gpt", "whole", disk(0b011_1110, 60, &entries))?;
        seed("gpt", "large-sectors", disk(0b011_1111, 60, &entries))?;
        seed("gpt", "backup-broken", disk(0b010_1010, 60, &entries))?;
        seed("gpt", "primary-broken", disk(0b011_0100, 60, &entries))?;
        let mut other = entries.clone();
        other[128 + 48..128 + 56].fill(0);
        seed("gpt", "copies-differ", disk(0b001_1110, 60, &[entries, other].concat()))
    }

    /// Verbs by the number that picks them.
    const SELF_TEST: u8 = 0;
    const DISARM: u8 = 1;
    const ARM: u8 = 2;
    const MARK_GOOD: u8 = 3;
    const MARK_BAD: u8 = 4;
    const RENEW: u8 = 5;
    const MARK_BAD_UNLESS_GOOD: u8 = 6;

    /// What boot loaders keep, behind the flags and verbs of each target.
    fn loaders() -> io::Result<()> {
        grub()?;
        uboot()?;
        systemd_boot()?;
        efi()?;
        autoboot()?;
        custom()
    }

    fn grub() -> io::Result<()> {
        let warning = "# WARNING: Do not edit this file by tools other than grub-editenv!!!\n";
        for (name, flags, verb, lines) in [
            ("factory", 0b100, SELF_TEST, format!("{warning}saved_entry=0\nota_loader=1\n")),
            (
                "on-trial",
                0b101,
                MARK_GOOD,
                "ota_loader=1\nota_primary=a\nota_pending=b\nota_left=2\nota_armed=1\nota_a=good\n".into(),
            ),
            ("spent", 0b100, DISARM, "ota_primary=a\nota_pending=b\nota_left=0\nota_armed=1\nota_a=good\nnext_entry=\n".into()),
            ("bad", 0b100, ARM, "ota_primary=a\nota_armed=1\nota_b=bad\nota_a=good\n".into()),
            ("rauc", 0b110, ARM, "ORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=0\n".into()),
            ("rauc-counted", 0b111, RENEW, "ORDER=B A\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=1\nota_armed=1\n".into()),
            ("rauc-on-trial", 0b111, MARK_BAD, "ORDER=B A\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=1\nota_pending=B\n".into()),
            ("escapes", 0b100, MARK_GOOD, "kernelopts=root=/dev/vda1 a\\\\b\\\nc\n".into()),
            ("damaged", 0b1001, DISARM, "nonsense".into()),
            (
                "late",
                0b101,
                MARK_BAD_UNLESS_GOOD,
                "ota_loader=1\nota_primary=a\nota_pending=b\nota_left=1\nota_armed=1\nota_a=good\n".into(),
            ),
            ("good-in-time", 0b111, MARK_BAD_UNLESS_GOOD, "ORDER=B A\nA_OK=1\nA_TRY=0\nB_OK=1\nB_TRY=1\nota_armed=1\n".into()),
        ] {
            seed("grub_environment", name, [&[flags, verb], lines.as_bytes()].concat())?;
        }
        Ok(())
    }

    fn uboot() -> io::Result<()> {
        let tried = "bootdelay=2\0BOOT_ORDER=B A\0BOOT_A_LEFT=3\0BOOT_B_LEFT=2\0ota_pending=B\0ota_armed=1\0ota_loader=1\0\0";
        let rauc = "BOOT_ORDER=A B R\0BOOT_A_LEFT=3\0BOOT_B_LEFT=0\0odd\0\0";
        let bad = "BOOT_ORDER=A\0BOOT_A_LEFT=a\0BOOT_B_LEFT=0\0ota_bad=B\0ota_armed=1\0\0";
        for (name, flags, verb, copies, variables) in [
            ("factory", 0b00, SELF_TEST, [0, 0], "bootcmd=run ota\0ota_loader=1\0\0"),
            ("single", 0b01, MARK_GOOD, [0, 0], tried),
            ("on-trial", 0b11, MARK_GOOD, [255, 0], tried),
            ("given-up", 0b11, MARK_BAD, [4, 3], tried),
            ("rauc", 0b10, ARM, [3, 4], rauc),
            ("bad", 0b10, DISARM, [1, 1], bad),
            ("counted", 0b10, RENEW, [1, 2], "BOOT_ORDER=A B\0BOOT_A_LEFT=1\0BOOT_B_LEFT=3\0\0"),
            ("one-damaged", 0b0110, ARM, [9, 1], rauc),
            ("one-empty", 0b1_0010, DISARM, [0, 255], tried),
            ("late", 0b11, MARK_BAD_UNLESS_GOOD, [7, 8], tried),
            ("good-in-time", 0b10, MARK_BAD_UNLESS_GOOD, [7, 8], bad),
        ] {
            let [first, second] = copies;
            seed("uboot_environment", name, [&[flags, verb, first, second, 4], variables.as_bytes()].concat())?;
        }
        seed(
            "uboot_environment",
            "places",
            "# device offset size\n/dev/mmcblk0 0x400000 0x20000 0x200 100\n/dev/mmcblk0 -0x20000 20000\n",
        )?;
        seed("uboot_environment", "flash", "/dev/mtd0 0 4000 4000\n")
    }

    fn systemd_boot() -> io::Result<()> {
        let entry = |slot: &str, version: u8| format!("sort-key ota\nversion {version}\ntitle {slot}\nlinux /ota/{slot}.efi\n");
        let (a, b) = (entry("a", 1), entry("b", 2));
        let own = "title Example 1.1.0\n# of the release\nuki /ota/b.efi\noptions quiet\n";
        let debian = "title Debian\nversion 6.1\nlinux /vmlinuz\ninitrd /initrd.img\n";
        for (name, flags, verb, files) in [
            ("factory", 0b00, DISARM, vec![("os-a.conf", a.as_str())]),
            ("arm", 0b10, ARM, vec![("os-a.conf", &a), ("os-b+0-0.off", &b), ("debian-6.1.conf", debian)]),
            ("on-trial", 0b01, MARK_GOOD, vec![("os-a.conf", &a), ("os-b+2-1.conf", &b)]),
            ("spent", 0b00, DISARM, vec![("os-a.conf", &a), ("os-b+0-3.conf", &b)]),
            ("bad", 0b01, MARK_BAD, vec![("os-a.conf", &a), ("os-b.conf", &b)]),
            (
                "cut-short",
                0b01,
                MARK_GOOD,
                vec![("os-a.conf", &a), ("os-b+1-2.conf", &b), ("os-b.conf", ""), ("os-b+0-0.new", &b)],
            ),
            ("late", 0b01, MARK_BAD_UNLESS_GOOD, vec![("os-a.conf", &a), ("os-b+1-2.conf", &b)]),
            ("good-in-time", 0b01, MARK_BAD_UNLESS_GOOD, vec![("os-a.conf", &a), ("os-b.conf", &b)]),
            ("none-of-ours", 0b00, DISARM, vec![("os-a.conf", &a), ("os-b+3-0.conf", debian)]),
            ("emptied", 0b00, ARM, vec![("os-a.conf", &a), ("os-b+1-2.conf", ""), ("os-b+0-3.conf", &b)]),
            ("old-counter", 0b00, ARM, vec![("os-a.conf", &a), ("os-b+3.conf", &b), ("x+300-0.conf", debian)]),
        ] {
            let files: Vec<String> = files.iter().map(|(name, text)| format!("\0{name}\0{text}")).collect();
            seed("systemd_boot_entries", name, [&[flags, verb], own.as_bytes(), files.concat().as_bytes()].concat())?;
        }
        seed("systemd_boot_entries", "text", [&[0, 0], b.as_bytes()].concat())
    }

    fn efi() -> io::Result<()> {
        let memory = |armed: u8, open: u8, marks: [u8; 2]| [b"OTA1".as_slice(), &[armed, open], &marks, &[0; 4]].concat();
        let hidden = [&[9, 0, 0, 0, 4, 0, b'U', 0, 0, 0, 0x7F, 0xFF, 4, 0], &b"o\0d"[..]].concat();
        for (name, flags, verb, order, next, memory) in [
            ("factory", 0b1110, SELF_TEST, vec![1, 0, 2, 0, 0xFF, 0], vec![], vec![]),
            ("arm", 0b1110, ARM, vec![0xFF, 0, 1, 0, 2, 0], vec![], memory(0, 0, [1, 0])),
            ("armed", 0b1110, DISARM, vec![1, 0, 2, 0], vec![2, 0], memory(1, 0, [1, 3])),
            ("on-trial", 0b1111, MARK_GOOD, vec![1, 0], vec![], memory(1, 0, [1, 3])),
            ("cut-short", 0b1111, MARK_BAD, vec![1, 0, 2, 0], vec![], memory(1, 2, [1, 0])),
            ("bad", 0b1110, ARM, vec![1, 0], vec![], memory(1, 0, [1, 2])),
            ("late", 0b1111, MARK_BAD_UNLESS_GOOD, vec![1, 0, 2, 0], vec![], memory(1, 0, [1, 3])),
            ("good-in-time", 0b1111, MARK_BAD_UNLESS_GOOD, vec![2, 0, 1, 0], vec![], memory(1, 0, [1, 1])),
            ("next-of-others", 0b1110, RENEW, vec![2, 0, 1, 0], vec![0xFF, 0], memory(1, 0, [1, 1])),
        ] {
            let pieces = [order, next, memory, vec![], vec![], hidden.clone()];
            let pieces = pieces.map(|piece: Vec<u8>| [&[u8::try_from(piece.len()).expect("a short piece")], &piece[..]].concat());
            seed("efi_variables", name, [&[flags, verb], &pieces.concat()[..]].concat())?;
        }
        seed("efi_variables", "entry", [&[0, 0], &fuzz::efi::plain_entry("Zwölf")[..]].concat())?;
        seed("efi_variables", "name", b"\0\0Boot00FF")
    }

    fn autoboot() -> io::Result<()> {
        let documented = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";
        let armed = format!("# of others\n{documented}#ota a=good b=pending armed\n");
        let good = "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=3\n#ota a=good b=good armed\n";
        for (name, flags, verb, started, text) in [
            ("documented", 0b000, ARM, 0, documented.to_owned()),
            ("short", 0b001, DISARM, 0, "boot_partition=3".to_owned()),
            ("armed", 0b010, DISARM, 2, armed.clone()),
            ("on-trial", 0b111, MARK_GOOD, 3, armed.clone()),
            ("late", 0b111, MARK_BAD_UNLESS_GOOD, 3, armed.clone()),
            ("good-in-time", 0b011, MARK_BAD_UNLESS_GOOD, 3, good.to_owned()),
            ("failed", 0b111, MARK_BAD, 3, armed),
            ("wrong-way-round", 0b010, DISARM, 3, "boot_partition=2\n#ota a=good b=good armed\n".to_owned()),
            ("others", 0b000, SELF_TEST, 0, format!("x=1\r\n[none]\r\nboot_partition=9\r\n{documented}{}\n\0\0", "#".repeat(70))),
        ] {
            seed("autoboot_txt", name, [&[flags, verb, started], text.as_bytes()].concat())?;
        }
        Ok(())
    }

    fn custom() -> io::Result<()> {
        let file = |open: &str, a: &str, b: &str| {
            format!("ota boot v1\nprimary a\never-armed yes\nopen {open}\nslot a {a}\nslot b {b}\nend\n")
        };
        for (name, flags, file, answers) in [
            ("factory", 0b010, String::new(), ["A\n", "good\n", "good\n", "A"]),
            ("on-trial", 0b001, file("none", "good", "armed good"), ["B", "good", "good", "B"]),
            ("given-up", 0b000, file("none", "good", "armed good"), [" A ", "good", "bad", ""]),
            ("cut-short", 0b001, file("b", "good", "none"), ["A", "good", "good", "B"]),
            ("counted", 0b001, file("none", "bad", "good"), ["A", "bad", "bad", "?"]),
            ("test", 0b100, file("none", "good", "armed bad"), ["A", "good", "\x1b[2Jbad", "A"]),
        ] {
            let answers = answers.map(|answer| format!("\0{answer}")).concat();
            seed("custom_program", name, [&[flags], file.as_bytes(), answers.as_bytes()].concat())?;
        }
        Ok(())
    }

    fn trials() -> io::Result<()> {
        seed("trial_files", "trial", "ota trial v1\nslot b\nversion 1.1.0\nattempt one\ndeadline 600\nend\n")?;
        seed("trial_files", "left", "ota trial left v1\nattempt one\ntimes 2\nwhy nobody kept it in time\nend\n")?;
        let panic =
            "[    2.5] Kernel panic - not syncing: no init\n[    2.6] ---[ end Kernel panic - not syncing: no init ]---\n";
        seed("trial_files", "log", format!("ota trial log v1\nattempt one\nfrom pstore\nlog\n[    1.0] BUG: x\n{panic}"))?;
        let records = "5,0,0,-;Linux version 6.1.0\n6,339,5140900,-,caller=T1;usb 1-4: new device; number 124\n SUBSYSTEM=usb\n";
        let dump = "Panic#1 Part1\n<0>[    2.5] Kernel panic - not syncing: no init\n<4>[    2.6] Call Trace:\n";
        seed("kernel_log", "records", records)?;
        seed("kernel_log", "ramoops", format!("{records}\0ramoops-0\0{dump}"))?;
        let earlier = "Panic#1 Part2\n<6>[    1.0] \x1b[1mbefore\tthat\r\n";
        seed("kernel_log", "efi", format!("\0efi-170000000001001\0{dump}\0efi-170000000002001\0{earlier}"))?;
        seed("kernel_log", "packed", format!("0,1,2,-;x\n\0efi-1.enc.z\0{dump}\0erst-2\0no head"))
    }
}

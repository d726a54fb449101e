//! `inspect --release`: where the bytes of a payload go, and what makes it large.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::desk::{Desk, SIGNED, WINDOW, image, noise};

/// Releases 1.0.0 and 1.1.0, between which the second window changes whole, and the delta.
fn two_releases() -> Desk {
    let desk = Desk::new();
    desk.build("1.0.0", 1, SIGNED);
    let mut next = image(1);
    next[WINDOW..2 * WINDOW].copy_from_slice(&noise(9, WINDOW));
    desk.write("root.img", &next);
    desk.build("1.1.0", 2, SIGNED);
    desk.good("delta --from out/1.0.0.release --to out/1.1.0.release --out out");
    desk
}

/// From the line that begins like this on.
fn from<'s>(said: &'s str, start: &str) -> &'s str {
    let at = said.find(start);
    assert!(at.is_some(), "{start:?} is not in {said}");
    &said[at.unwrap()..]
}

#[test]
fn the_largest_frames_are_named_without_any_image() {
    let desk = two_releases();
    let said = desk.good("inspect out/1.1.0.payload --top 3");
    assert_eq!(
        from(&said, "  largest"),
        "  largest frames, each with its part of the payload
       1.0 MiB   99.5 %  frame 0: windows 0 to 3 of root, 1.0 MiB at byte 0, 1 raw
       4.9 KiB    0.5 %  frame 2: window 8 of root, 4.9 KiB at byte 2097152, 1 raw
"
    );
    let json: Value = serde_json::from_str(&desk.good("inspect --json out/1.1.0.payload --top 1")).unwrap();
    assert_eq!(
        json["largest"],
        serde_json::json!([{
            "frame": 0, "image": "root", "slot": null, "first_window": 0, "windows": 4, "offset": 0, "kind": 1, "name": "raw",
            "output_bytes": 4 * WINDOW, "blob_bytes": 4 * WINDOW,
        }])
    );
    assert_eq!(json.get("release"), None);
}

#[test]
fn with_the_release_a_delta_tells_what_it_saves() {
    let desk = two_releases();
    let said = desk.good("inspect out/1.0.0-to-1.1.0.payload --release out/1.1.0.release");
    let line = |start: &str| from(&said, start).lines().next().unwrap().to_owned();
    assert_eq!(line("  saved"), "  saved      75.1 %: 256.2 KiB instead of the full payload's 1.0 MiB");
    assert_eq!(
        from(&said, "  makes"),
        "  makes      release 1.1.0, sequence 2
    root  256.0 KiB of the payload; no file system that can be read here (ext2, ext3, ext4, squashfs, erofs)
  files, with the bytes of the payload that go to them (of each frame by length)
     256.0 KiB   99.9 %  root: not known whose
"
    );
    // The images as files are as good, and the full payload may be gone then: nobody knows what was saved.
    let with_file = "inspect out/1.0.0-to-1.1.0.payload --release out/1.1.0.release --image root=root.img";
    assert_eq!(desk.good(with_file), said);
    fs::rename(desk.path("out/1.1.0.payload"), desk.path("elsewhere")).unwrap();
    assert!(!desk.good(with_file).contains("  saved"));
    assert_eq!(desk.good(&format!("{with_file} --full-payload elsewhere")), said);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let desk = two_releases();
    let delta = "inspect out/1.0.0-to-1.1.0.payload";
    let run = desk.run(&format!("{delta} --release out/1.0.0.release"));
    let foreign = "error: out/1.0.0-to-1.1.0.payload: the payload was made for another release: sha256 of the window table of image \"root\": \
                   expected ";
    assert!(run.code == 1 && run.stdout.is_empty() && run.stderr.starts_with(foreign), "{}", run.stderr);
    assert!(run.stderr.ends_with("hint: a payload fits one release only: compare with `releasectl inspect`\n"), "{}", run.stderr);

    desk.write("other.img", image(5));
    desk.bad(
        &format!("{delta} --release out/1.1.0.release --image root=other.img"),
        1,
        "error: image root is not the one of out/1.1.0.release: 5 of 9 windows differ, the first is window 0\n\
         hint: give the very file that the release was built of; mounted once for writing, an image is another one\n",
    );
    let run = desk.run(&format!("{delta} --release out/1.1.0.release --image usr=root.img"));
    assert!(run.stderr.contains("expected one of its images (root), got usr"), "{}", run.stderr);
    let run = desk.run("inspect out/1.1.0.release --release out/1.1.0.release");
    assert!(run.stderr.contains("not a payload: expected the magic \"OTAPAYLD\" at byte 0"), "{}", run.stderr);
    fs::remove_file(desk.path("out/1.1.0.payload")).unwrap();
    desk.bad(
        &format!("{delta} --release out/1.1.0.release"),
        1,
        "error: out/1.1.0.release: expected its images as files, or its full payload out/1.1.0.payload, got neither\n\
         hint: give the VERSION.payload that `releasectl build` wrote, or the images themselves\n",
    );
    let with_full = format!("{delta} --release out/1.1.0.release --image root=root.img --full-payload");
    desk.bad(
        &format!("{with_full} out/1.0.0-to-1.1.0.payload"),
        1,
        "error: out/1.0.0-to-1.1.0.payload: expected a full payload, got a delta that leans on an image \"root\"\n\
         hint: give the VERSION.payload that `releasectl build` wrote, or the images themselves\n",
    );
    let run = desk.run(&format!("{with_full} out/1.0.0.payload"));
    assert!(run.stderr.starts_with("error: out/1.0.0.payload: the payload was made for another release: "), "{}", run.stderr);
    for line in ["--image root=root.img", "--full-payload elsewhere", "--threads 2"] {
        let run = desk.run(&format!("{delta} {line}"));
        assert!(run.code == 2 && run.stderr.contains("--release <RELEASE>"), "{line}: {}", run.stderr);
    }
    assert!(desk.run(&format!("{delta} --top 0")).stderr.contains("0 is not in 1..=1000"));
}

/// Runs a tool, or says why it cannot be run.
fn run(command: &mut Command) -> Result<(), String> {
    let tool = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{tool} cannot be run: {error}"))?;
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn ext4(folder: &Path, image: &Path) -> Result<(), String> {
    fs::File::create(image).unwrap().set_len(8 << 20).unwrap();
    let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-N", "256", "-d"];
    run(Command::new("mke2fs").args(options).arg(folder).arg(image))
}

fn squashfs(folder: &Path, image: &Path) -> Result<(), String> {
    let options = ["-quiet", "-no-progress", "-noappend", "-no-xattrs", "-comp", "gzip"];
    run(Command::new("mksquashfs").arg(folder).arg(image).args(options))
}

/// A root folder in which every release has other bytes behind the magic of what is compressed.
fn root(desk: &Desk, release: u64) -> std::path::PathBuf {
    let packed = |magic: &[u8], seed: u64, length: usize| [magic, &noise(seed * 10 + release, length)].concat();
    let zstd = b"\x28\xb5\x2f\xfd";
    fs::create_dir_all(desk.path("folder/boot")).unwrap();
    fs::create_dir_all(desk.path("folder/modules")).unwrap();
    desk.write("folder/boot/initrd.img", packed(zstd, 1, 600_000));
    for module in 0..20_u64 {
        let name = format!("folder/modules/{module}.ko.xz");
        desk.write(&name, packed(b"\xfd7zXZ\0", 100 + module, 9_000));
    }
    let text: String = noise(77 + release, 150_000).iter().map(|byte| format!("{byte:02x}")).collect();
    desk.write("folder/changed", text);
    desk.write("folder/same", noise(7, 1_000_000));
    desk.path("folder")
}

/// A delta between two images of folders, or why there is none.
fn delta_of(make: fn(&Path, &Path) -> Result<(), String>) -> Result<Desk, String> {
    let desk = Desk::new();
    for (version, sequence) in [("1.0.0", 1), ("1.1.0", 2)] {
        make(&root(&desk, sequence.into()), &desk.path("root.img"))?;
        desk.build(version, sequence, SIGNED);
    }
    desk.good("delta --from out/1.0.0.release --to out/1.1.0.release --out out --force");
    Ok(desk)
}

const EXPLAIN: &str = "inspect out/1.0.0-to-1.1.0.payload --release out/1.1.0.release";

#[test]
fn the_files_that_bytes_go_to_are_named_and_those_compressed_are_warned_of() {
    let desk = match delta_of(ext4) {
        Ok(desk) => desk,
        Err(why) => return println!("skipped: {why}"),
    };
    let json: Value = serde_json::from_str(&desk.good(&format!("{EXPLAIN} --json --top 2"))).unwrap();
    let release = &json["release"];
    assert_eq!((&release["images"][0]["file_system"], &release["images"][0]["note"]), (&"ext4".into(), &Value::Null));
    assert_eq!((&release["version"], &release["sequence"]), (&"1.1.0".into(), &2.into()));
    assert_eq!(release["full_bytes"], desk.read("out/1.1.0.payload").len());

    // Whole windows share their bytes with what stands beside: a quarter more or less.
    let near = |got: &Value, expected: u64| {
        let got = got.as_u64().unwrap();
        assert!(got > expected * 3 / 4 && got < expected * 5 / 4, "{got} of {expected}");
    };
    let files = release["files"].as_array().unwrap();
    let paths: Vec<_> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/boot/initrd.img", "/changed"]);
    near(&files[0]["blob_bytes"], 600_000);
    near(&files[1]["blob_bytes"], 160_000);
    assert_eq!(json["largest"][0]["files"][0]["what"], "file");

    let warnings = release["warnings"].as_array().unwrap();
    let key = |warning: &Value| {
        [&warning["packed"], &warning["path"], &warning["packed_with"], &warning["files"]].map(Value::to_string)
    };
    assert_eq!(key(&warnings[0]), ["\"file\"", "\"/boot/initrd.img\"", "[\"zstd\"]", "1"]);
    assert_eq!(key(&warnings[1]), ["\"modules\"", "null", "[\"xz\"]", "20"]);
    assert_eq!(warnings.len(), 2);
    near(&warnings[1]["blob_bytes"], 180_000);

    // What goes to files, named or not, and besides them, is what the frames take.
    let sum = |rows: &Value| rows.as_array().unwrap().iter().map(|row| row["blob_bytes"].as_u64().unwrap()).sum::<u64>();
    let all = sum(&release["files"]) + sum(&release["besides"]) + release["other_files"]["blob_bytes"].as_u64().unwrap();
    assert_eq!(all, sum(&json["frames"]));

    let said = desk.good(EXPLAIN);
    let warned = from(&said, "  warnings\n");
    assert!(warned.contains("    root: /boot/initrd.img is compressed with zstd, and costs "), "{said}");
    assert!(warned.contains("    root: 20 kernel modules are compressed with xz, and cost "), "{said}");
    assert!(warned.contains("      hint: store it uncompressed: deltas then carry what changed in it"), "{said}");
    assert!(said.contains("root: metadata of the file system\n"), "{said}");
}

#[test]
fn a_squashfs_is_warned_of_as_a_whole() {
    let desk = match delta_of(squashfs) {
        Ok(desk) => desk,
        Err(why) => return println!("skipped: {why}"),
    };
    let said = desk.good(EXPLAIN);
    assert!(said.contains("    root  squashfs compressed with gzip, "), "{said}");
    assert!(from(&said, "  files, with").contains(" %  root: /boot/initrd.img\n"), "{said}");
    let warned = from(&said, "  warnings\n");
    assert!(warned.starts_with("  warnings\n    image root is a squashfs compressed with gzip, and costs "), "{said}");
    assert_eq!(warned.lines().count(), 3, "what is in it is compressed once more, which is no news: {said}");
    assert!(
        warned.ends_with(
            "      hint: build the image uncompressed (ext4, or erofs without -z): the payload is compressed anyway\n"
        ),
        "{said}"
    );
}

#[test]
fn a_kernel_as_an_image_of_its_own_is_looked_into() {
    let desk = Desk::new();
    let mut kernel = noise(1, 300_000);
    kernel[0x1f1] = 1;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x248..0x24c].copy_from_slice(&[0; 4]);
    kernel[1024..1028].copy_from_slice(b"\x28\xb5\x2f\xfd");
    desk.write("kernel.img", &kernel);
    desk.build("1.0.0", 1, &format!("{SIGNED} --image kernel@a=kernel.img"));
    let said = desk.good("inspect out/1.0.0.payload --release out/1.0.0.release");
    assert!(!said.contains("  saved"), "a full payload saves nothing: {said}");
    assert_eq!(
        from(&said, "  warnings\n"),
        "  warnings
    kernel@a is compressed with zstd, and costs 293.0 KiB of this payload's 1.3 MiB (22.2 %)
      hint: a kernel that stays the same costs next to nothing; give an uncompressed one where the machine boots it
"
    );
}

//! What a packager's `dist/install.sh` brings into an image. A whole Debian that is made with it is started in `tests/vm/debian.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const PROGRAMS: [&str; 3] = ["update-engined", "update-engine-trial", "updatectl"];

/// An image that is still empty, and a folder of programs that were built.
struct Packager {
    image: TempDir,
    built: TempDir,
}

impl Packager {
    fn new() -> Self {
        let built = tempfile::tempdir().unwrap();
        for name in PROGRAMS {
            fs::write(built.path().join(name), "#!/bin/sh\n").unwrap();
            fs::set_permissions(built.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { image: tempfile::tempdir().unwrap(), built }
    }

    fn install(&self, prefix: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/install.sh");
        let mut install = Command::new("sh");
        install.args(["-c", "umask 000; exec \"$0\""]).arg(script);
        install.env("DESTDIR", self.image.path()).env("PREFIX", prefix).env("BIN_DIR", self.built.path());
        install.output().unwrap()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.image.path().join(name)).unwrap()
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_units_call_the_programs_where_they_were_put_and_nobody_else_can_write_to_them() {
    for prefix in ["/usr", "/opt/update-engine"] {
        let packager = Packager::new();
        let done = packager.install(prefix);
        assert!(done.status.success(), "{}", words(&done));
        let below = prefix.trim_start_matches('/');
        for name in PROGRAMS {
            let mode = fs::metadata(packager.image.path().join(below).join("bin").join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755, "{name}");
        }
        for name in ["update-engined", "update-engine-trial"] {
            let unit = packager.text(&format!("{below}/lib/systemd/system/{name}.service"));
            assert!(unit.contains(&format!("\nExecStart={prefix}/bin/{name}\n")), "{unit}");
        }
        let folder = fs::metadata(packager.image.path().join("etc/update-engine")).unwrap().permissions().mode();
        assert_eq!(folder & 0o7777, 0o755);
        assert_eq!(packager.text("etc/update-engine/config.toml"), include_str!("../../dist/config.toml"));
    }
}

#[test]
fn a_configuration_that_is_there_stays_as_it_is() {
    let packager = Packager::new();
    fs::create_dir_all(packager.image.path().join("etc/update-engine")).unwrap();
    fs::write(packager.image.path().join("etc/update-engine/config.toml"), "alias = \"mine\"\n").unwrap();
    let done = packager.install("/usr");
    assert!(done.status.success(), "{}", words(&done));
    assert_eq!(packager.text("etc/update-engine/config.toml"), "alias = \"mine\"\n");
}

#[test]
fn what_cannot_be_installed_is_named_and_nothing_is() {
    let packager = Packager::new();
    for prefix in ["usr", "/a|b"] {
        let refused = packager.install(prefix);
        assert_eq!(refused.status.code(), Some(1));
        assert!(words(&refused).contains(&format!("PREFIX is {prefix}; expected an absolute path")), "{}", words(&refused));
    }
    fs::remove_file(packager.built.path().join("updatectl")).unwrap();
    let refused = packager.install("/usr");
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        words(&refused).contains("there is no program ") && words(&refused).contains("/updatectl\nhint: "),
        "{}",
        words(&refused)
    );
    assert_eq!(fs::read_dir(packager.image.path()).unwrap().count(), 0);
}

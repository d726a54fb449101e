//! Local trust (design 11.16): what others could change is refused by name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that is skipped says why"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use update_engine::config::trust::{Target, check_trust};

/// A folder below the system's temporary one, with permissions as asked.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn folder(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn own_uid(&self) -> u32 {
        fs::metadata(self.folder.path()).unwrap().uid()
    }

    fn problems(&self, target: Target) -> Vec<String> {
        let errors = check_trust(&[target], self.own_uid()).err().unwrap_or_default();
        errors.iter().map(|error| error.to_string().replace(&self.folder.path().display().to_string(), "")).collect()
    }

    fn is_root(&self) -> bool {
        self.own_uid() == 0
    }
}

const NOBODY: u32 = 65_534;

fn give_away(path: &Path) {
    std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

#[test]
fn design_11_16_a_file_of_ones_own_that_nobody_else_can_write_is_trusted() {
    let place = Place::new();
    assert_eq!(place.problems(Target::File(place.file("config.toml", 0o644))), [""; 0]);
    assert_eq!(place.problems(Target::Folder(place.folder("state", 0o700))), [""; 0]);
    assert_eq!(place.problems(Target::FolderAndFiles(place.path("state"))), [""; 0]);
}

#[test]
fn design_11_16_what_group_or_others_can_write_is_refused() {
    let place = Place::new();
    let expected =
        |path: &str, mode: &str| vec![format!("{path}: expected nobody but its owner to be able to write it, got mode {mode}")];
    assert_eq!(place.problems(Target::File(place.file("group", 0o664))), expected("/group", "0664"));
    assert_eq!(place.problems(Target::File(place.file("others", 0o646))), expected("/others", "0646"));
    assert_eq!(place.problems(Target::Folder(place.folder("state", 0o777))), expected("/state", "0777"));
    assert_eq!(place.problems(Target::Folder(place.folder("sticky", 0o1777))), expected("/sticky", "1777"));
    place.folder("keys", 0o755);
    place.file("keys/a.pub", 0o644);
    place.file("keys/b.pub", 0o666);
    assert_eq!(place.problems(Target::FolderAndFiles(place.path("keys"))), expected("/keys/b.pub", "0666"));
}

#[test]
fn design_11_16_a_folder_on_the_way_that_others_can_write_is_refused_unless_it_is_sticky() {
    let place = Place::new();
    place.folder("open", 0o777);
    let file = place.file("open/config.toml", 0o644);
    let expected = "/open (on the way to /open/config.toml): expected nobody but its owner to be able to write it, got mode 0777";
    assert_eq!(place.problems(Target::File(file.clone())), [expected]);
    place.folder("open", 0o1777);
    assert_eq!(place.problems(Target::File(file)), [""; 0]);
}

#[test]
fn design_11_16_what_belongs_to_somebody_else_is_refused() {
    let place = Place::new();
    if !place.is_root() {
        println!("skipped: giving a file away needs root");
        return;
    }
    let file = place.file("config.toml", 0o644);
    chown(&file, Some(NOBODY), None).unwrap();
    assert_eq!(place.problems(Target::File(file)), ["/config.toml: expected it to belong to root (uid 0), got uid 65534"]);
    place.folder("theirs", 0o755);
    let below = place.file("theirs/config.toml", 0o644);
    give_away(&place.path("theirs"));
    assert_eq!(
        place.problems(Target::File(below)),
        ["/theirs (on the way to /theirs/config.toml): expected it to belong to root (uid 0), got uid 65534"]
    );
}

#[test]
fn design_11_16_a_daemon_that_is_not_root_trusts_root_and_itself() {
    let place = Place::new();
    if !place.is_root() {
        println!("skipped: giving a file away needs root");
        return;
    }
    let file = place.file("config.toml", 0o644);
    give_away(&file);
    assert!(check_trust(&[Target::File(file.clone())], NOBODY).is_ok());
    let error = check_trust(&[Target::File(file)], 1000).unwrap_err().remove(0).to_string();
    assert!(error.ends_with("expected it to belong to root (uid 0) or to uid 1000, got uid 65534"), "{error}");
}

#[test]
fn design_11_16_a_link_is_followed_and_looked_at_on_its_whole_way() {
    let place = Place::new();
    place.folder("keys", 0o755);
    place.folder("elsewhere", 0o777);
    place.file("elsewhere/a.pub", 0o644);
    symlink("../elsewhere/a.pub", place.path("keys/a.pub")).unwrap();
    assert_eq!(
        place.problems(Target::FolderAndFiles(place.path("keys"))),
        ["/elsewhere (on the way to /keys/a.pub): expected nobody but its owner to be able to write it, got mode 0777"]
    );
    place.folder("elsewhere", 0o755);
    assert_eq!(place.problems(Target::FolderAndFiles(place.path("keys"))), [""; 0]);
}

#[test]
fn design_11_16_a_link_of_somebody_else_is_refused_even_where_it_leads_to_a_trusted_file() {
    let place = Place::new();
    if !place.is_root() {
        println!("skipped: giving a link away needs root");
        return;
    }
    place.folder("shared", 0o1777);
    let file = place.file("config.toml", 0o644);
    symlink(&file, place.path("shared/config.toml")).unwrap();
    give_away(&place.path("shared/config.toml"));
    assert_eq!(
        place.problems(Target::File(place.path("shared/config.toml"))),
        ["/shared/config.toml: expected it to belong to root (uid 0), got uid 65534"]
    );
}

#[test]
fn design_11_16_links_in_a_circle_end() {
    let place = Place::new();
    symlink("two", place.path("one")).unwrap();
    symlink("one", place.path("two")).unwrap();
    assert_eq!(place.problems(Target::File(place.path("one"))), ["/one: expected at most 40 symbolic links, got more"]);
}

#[test]
fn design_11_16_what_does_not_exist_is_no_problem_but_an_open_folder_above_it_is() {
    let place = Place::new();
    assert_eq!(place.problems(Target::File(place.path("no/such/file"))), [""; 0]);
    assert_eq!(place.problems(Target::FolderAndFiles(place.path("gate.d"))), [""; 0]);
    place.folder("open", 0o777);
    assert_eq!(place.problems(Target::Folder(place.path("open/state"))).len(), 1);
}

#[test]
fn design_11_16_a_folder_in_the_place_of_a_file_is_refused() {
    let place = Place::new();
    assert_eq!(
        place.problems(Target::File(place.folder("config.toml", 0o755))),
        ["/config.toml: expected a file, got something else"]
    );
    assert_eq!(place.problems(Target::Folder(place.file("state", 0o644))), ["/state: expected a folder, got something else"]);
}

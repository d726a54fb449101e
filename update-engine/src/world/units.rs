//! What systemd on this host has to do with a trial: a service that would end it too early, and the one that ends it in time.

use std::path::{Path, PathBuf};

use crate::config::{BootSettings, Settings};

/// Where units lie, in the order in which they count (systemd.unit(5)).
const FOLDERS: [&str; 5] =
    ["etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// Most entries that are looked at in a folder of units.
const MAX_UNITS: usize = 4096;

/// systemd's own service for boot counting marks an entry good as soon as the boot is complete: the trial would be over before it
/// began. Its generator asks for it in every boot that is counted.
pub(super) fn rival(settings: &Settings) -> Option<String> {
    const SERVICE: &str = "systemd-bless-boot.service";
    let generators = ["usr/lib/systemd/system-generators", "lib/systemd/system-generators"];
    let has_generator =
        generators.iter().any(|folder| settings.under_sysroot(folder).join("systemd-bless-boot-generator").exists());
    let is_masked = unit_that_counts(&folders(settings), SERVICE).is_some_and(|unit| is_masked(&unit));
    let is_rival = matches!(settings.boot, BootSettings::SystemdBoot(_)) && has_generator && !is_masked;
    is_rival.then(|| {
        format!(
            "{SERVICE} is not masked: it keeps a new slot as soon as the boot is complete, whatever the health checks say; the images \
             have to mask it (`systemctl mask {SERVICE}`)"
        )
    })
}

/// A trial whose daemon does not run is ended by a unit of its own. Under systemd nothing starts it where it is not installed, nothing asks
/// for it, or it is masked. Elsewhere nobody knows how it is started.
pub(super) fn no_deadline(settings: &Settings) -> Option<String> {
    const UNIT: &str = "update-engine-trial.service";
    if !settings.under_sysroot("run/systemd/system").is_dir() {
        return None;
    }
    let folders = folders(settings);
    let how = match unit_that_counts(&folders, UNIT) {
        None => "is not installed",
        Some(unit) if is_masked(&unit) => "is masked",
        Some(_) if !folders.iter().any(|folder| is_asked_for(folder, UNIT)) => "is not enabled",
        Some(_) => return None,
    };
    Some(format!(
        "{UNIT} {how}: an image whose daemon does not come up is then left by nothing until somebody reboots the host; the images have to \
         bring and enable it (`systemctl enable {UNIT}`)"
    ))
}

fn folders(settings: &Settings) -> [PathBuf; 5] {
    FOLDERS.map(|folder| settings.under_sysroot(folder))
}

fn unit_that_counts(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|unit| unit.symlink_metadata().is_ok())
}

/// A link to nowhere, or an empty file.
fn is_masked(unit: &Path) -> bool {
    let is_link_to_null = std::fs::read_link(unit).is_ok_and(|target| target == Path::new("/dev/null"));
    is_link_to_null || unit.symlink_metadata().is_ok_and(|data| data.is_file() && data.len() == 0)
}

/// Some other unit wants or requires it.
fn is_asked_for(folder: &Path, unit: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.take(MAX_UNITS).flatten().any(|entry| {
        let asks = entry.path().extension().is_some_and(|kind| kind == "wants" || kind == "requires");
        asks && entry.path().join(unit).symlink_metadata().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Source, parse};
    use crate::world::tests::{SYSTEMD_BOOT, world};

    use super::*;

    #[test]
    fn where_systemd_would_keep_a_new_slot_by_itself_that_is_said_until_it_is_masked() {
        let dir = tempfile::tempdir().unwrap();
        let plain = world(dir.path());
        let of_loader = SYSTEMD_BOOT.replace('@', &dir.path().display().to_string());
        let boot = Source::new("boot", of_loader);
        let usual = Source::new("usual", plain.settings().to_toml().unwrap());
        let settings = parse(&[usual, boot]).unwrap();
        assert_eq!(rival(&settings), None);
        let link = |folder: &str, to: &str| {
            let folder = dir.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink(to, folder.join("systemd-bless-boot.service")).unwrap();
        };
        let generators = dir.path().join("usr/lib/systemd/system-generators");
        std::fs::create_dir_all(&generators).unwrap();
        std::fs::write(generators.join("systemd-bless-boot-generator"), "").unwrap();
        assert!(rival(&settings).unwrap().starts_with("systemd-bless-boot.service is not masked"));
        assert_eq!(rival(plain.settings()), None, "other loaders' slots are none of its");
        link("etc/systemd/system", "/dev/null");
        assert_eq!(rival(&settings), None);
    }

    #[test]
    fn under_systemd_a_deadline_that_nothing_starts_is_said_until_it_is_enabled() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        let said = || no_deadline(world.settings());
        let how = |word: &str| said().unwrap().starts_with(&format!("update-engine-trial.service {word}: "));
        let unit = |folder: &str| dir.path().join(folder).join("update-engine-trial.service");
        let link = |folder: &str, to: &str| {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            std::os::unix::fs::symlink(to, unit(folder)).unwrap();
        };
        assert_eq!(said(), None, "systemd does not run it");
        std::fs::create_dir_all(dir.path().join("run/systemd/system")).unwrap();
        assert!(how("is not installed"), "{:?}", said());
        std::fs::create_dir_all(dir.path().join("usr/lib/systemd/system")).unwrap();
        std::fs::write(unit("usr/lib/systemd/system"), "[Service]\n").unwrap();
        assert!(how("is not enabled"), "{:?}", said());
        for (folder, to) in [
            ("etc/systemd/system/sysinit.target.wants", "/usr/lib/systemd/system/update-engine-trial.service"),
            ("usr/lib/systemd/system/basic.target.requires", "../update-engine-trial.service"),
        ] {
            link(folder, to);
            assert_eq!(said(), None, "{folder}");
            link("etc/systemd/system", "/dev/null");
            assert!(how("is masked"), "{:?}", said());
            std::fs::remove_file(unit("etc/systemd/system")).unwrap();
            std::fs::remove_file(unit(folder)).unwrap();
        }
        assert!(world.look(None).no_deadline.is_some());
    }
}

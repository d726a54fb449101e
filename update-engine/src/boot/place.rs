//! Where boot loaders keep their state, and that none of it lies on a slot: an update replaces a slot with all that is in it.
//!
//! A file of the right name may well lie on a slot where the partition that ought to be mounted there is not. What it says is not what
//! the loader reads, so it is not read either.

use std::path::{Path, PathBuf};

use super::BootError;
use super::uboot;
use crate::config::BootSettings;
use crate::slot::{Disk, SlotError, Target};

/// One of the places.
enum Place {
    /// A file, or a folder and what is in it. It need not be there yet.
    File { key: &'static str, path: PathBuf },
    /// Bytes of a device or file.
    Bytes { key: &'static str, copy: uboot::Place, length: u64 },
}

/// Refuses boot state of which any part lies on a slot of this disk.
pub(crate) fn on_no_slot(boot: &BootSettings, disk: &Disk) -> Result<(), BootError> {
    places(boot).iter().try_for_each(|place| {
        let (key, path) = place.shown();
        let Some(target) = place.holder(disk)? else { return Ok(()) };
        Err(BootError::Unsuitable(format!(
            "{} ({key}) lies on slot {} ({}): expected the boot loader's state on neither slot, because updates replace them; is its \
             partition not mounted?",
            path.display(),
            target.slot,
            target.place.path().display()
        )))
    })
}

/// GPT's bits lie between the partitions, efivarfs in the firmware, and what a program of the host keeps only that knows.
fn places(boot: &BootSettings) -> Vec<Place> {
    let file = |key, path: &Path| Place::File { key, path: path.to_path_buf() };
    match boot {
        BootSettings::Gpt | BootSettings::Efi(_) | BootSettings::Custom(_) => Vec::new(),
        BootSettings::Grub(grub) => vec![file("boot.grub.env", &grub.env), file("boot.grub.copy", &grub.copy)],
        BootSettings::SystemdBoot(loader) => vec![file("boot.systemd-boot.esp", &loader.esp.join("loader/entries"))],
        BootSettings::RpiTryboot(rpi) => vec![file("boot.rpi-tryboot.autoboot", &rpi.autoboot)],
        BootSettings::UBoot(loader) => {
            // A file that says nothing is an error of whoever reads the environment.
            let places = uboot::control::places_in(&loader.config).ok();
            let lengths = places.map(|places| (u64::try_from(places.size_bytes).unwrap_or(u64::MAX), places.copies));
            let copies = lengths.into_iter().flat_map(|(length, copies)| copies.into_iter().map(move |copy| (length, copy)));
            copies.map(|(length, copy)| Place::Bytes { key: "boot.u-boot.config", copy, length }).collect()
        }
    }
}

impl Place {
    fn shown(&self) -> (&'static str, &Path) {
        match self {
            Self::File { key, path } => (key, path),
            Self::Bytes { key, copy, .. } => (key, &copy.device),
        }
    }

    fn holder<'a>(&self, disk: &'a Disk) -> Result<Option<&'a Target>, SlotError> {
        match self {
            Self::File { path, .. } => {
                let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
                disk.holder_of(there)
            }
            // One that is not there is an error of whoever reads it.
            Self::Bytes { copy, .. } if !copy.device.exists() => Ok(None),
            Self::Bytes { copy, length, .. } => disk.holder_of_bytes(&copy.device, copy.offset, *length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, parse};
    use crate::slot::disk::tests::host;
    use crate::slot::system::fake::FakeSystem;

    /// What is said of a boot state, where `/` and a folder are mounted from these partitions of `vda`: the first is slot a, the second b.
    fn said([root, folder_is]: [u32; 2], boot: &str) -> Result<(), String> {
        let mut system = FakeSystem::new();
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().display().to_string();
        system.mount(&format!("254:{root}"), "/", "ext4", "/dev/x", "rw");
        system.mount(&format!("254:{folder_is}"), &at, "ext4", "/dev/x", "rw");
        std::fs::write(folder.path().join("fw_env.config"), format!("{at}/uboot.env 0 4000\n")).unwrap();
        std::fs::write(folder.path().join("uboot.env"), "").unwrap();
        let usual = "server.app_id = \"x\"\ndisk = { device = \"/dev/vda\", esp = \"DIR\" }\nreboot.command = [\"/r\"]\n\
                     slots.a = { root = \"partlabel:root-a\", entry = \"esp:/ota/{slot}.entry\" }\n\
                     slots.b = { root = \"partlabel:root-b\", entry = \"esp:/ota/{slot}.entry\" }\n";
        let settings = parse(&[Source::new("test", format!("{usual}{boot}").replace("DIR", &at))]).unwrap();
        on_no_slot(&settings.boot, &host(&system)).map_err(|error| error.to_string().replace(&at, "DIR"))
    }

    #[test]
    fn boot_state_on_a_slot_is_refused_with_its_key_and_the_slot() {
        for (boot, path, key) in [
            ("control = \"grub\"\ngrub.env = \"DIR/grubenv\"", "DIR/grubenv", "boot.grub.env"),
            ("control = \"grub\"\ngrub = { env = \"/elsewhere\", copy = \"DIR/copy\" }", "DIR/copy", "boot.grub.copy"),
            ("control = \"systemd-boot\"\nsystemd-boot.esp = \"DIR\"", "DIR/loader/entries", "boot.systemd-boot.esp"),
            ("control = \"rpi-tryboot\"\nrpi-tryboot.autoboot = \"DIR/a.txt\"", "DIR/a.txt", "boot.rpi-tryboot.autoboot"),
            ("control = \"u-boot\"\nu-boot.config = \"DIR/fw_env.config\"", "DIR/uboot.env", "boot.u-boot.config"),
        ] {
            let boot = format!("[boot]\n{boot}\n");
            assert_eq!(said([3, 3], &boot), Ok(()), "{key}");
            let words = said([3, 2], &boot).unwrap_err();
            let begins = format!("{path} ({key}) lies on slot b (/dev/vda2): expected the boot loader's state on neither slot");
            assert!(words.starts_with(&begins), "{words}");
        }
        for control in ["gpt", "efi"] {
            assert_eq!(said([1, 2], &format!("boot.control = \"{control}\"\n")), Ok(()));
        }
    }

    #[test]
    fn a_partition_that_is_not_mounted_shows_as_the_slot_under_it() {
        let words = said([1, 3], "boot.control = \"grub\"\nboot.grub.env = \"/no/such/folder/grubenv\"\n").unwrap_err();
        assert!(words.starts_with("/no/such/folder/grubenv (boot.grub.env) lies on slot a (/dev/vda1)"), "{words}");
        // An environment that is not there at all says so itself.
        assert_eq!(said([1, 2], "boot.control = \"u-boot\"\nboot.u-boot.config = \"/no/such/file\"\n"), Ok(()));
    }
}

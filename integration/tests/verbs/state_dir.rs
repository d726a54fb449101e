//! A state folder that lies on a slot is named and never written to: it would be gone with the next update. The daemon stays up
//! and says so, because a slot on trial whose image forgot to mount it has to be left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use integration::hostsim::image::{DiskSpec, PartitionSpec, make_disk};
use integration::rig::program;

use crate::scene::words_in;

/// How `timeout` ends when the program it ran had to be stopped.
const TIMED_OUT: i32 = 124;

/// Loop devices are one pool for the whole machine, and every daemon hears when something is mounted.
pub(crate) static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A disk behind a loop device, with two slots and a partition for state, each with a file system. Dropping it undoes its mounts
/// and detaches exactly that device.
struct LoopDisk {
    folder: tempfile::TempDir,
    device: String,
    mounted: Vec<PathBuf>,
    _turn: MutexGuard<'static, ()>,
}

fn command(name: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(name).args(arguments).output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{name} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// The disk, or why there is none.
fn loop_disk() -> Result<LoopDisk, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root for loop devices".to_owned());
    }
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    let partitions = ["root-a", "root-b", "state"].map(|label| PartitionSpec::new(label, 8 << 20));
    make_disk(&image, &DiskSpec { sector: 512, guid: None, partitions: partitions.into(), first_sector: None }).unwrap();
    let device = command("losetup", &["-f", "--show", image.to_str().unwrap()])?;
    let mut disk = LoopDisk { folder, device, mounted: Vec::new(), _turn: turn };
    // A kernel that reads no GPT is told the partitions; one that does has them already.
    let told = command("partx", &["-a", &disk.device]);
    if !Path::new(&disk.partition(1)).exists() {
        return Err(format!("no partition devices: {told:?}"));
    }
    for number in 1..=3 {
        command("mke2fs", &["-q", "-F", &disk.partition(number)])?;
        let at = disk.at(number);
        fs::create_dir(&at).unwrap();
        command("mount", &[&disk.partition(number), at.to_str().unwrap()])?;
        disk.mounted.push(at);
    }
    Ok(disk)
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        for at in self.mounted.iter().rev() {
            command("umount", &[at.to_str().unwrap()]).unwrap();
        }
        let _told_or_not = command("partx", &["-d", &self.device]);
        command("losetup", &["-d", &self.device]).unwrap();
    }
}

impl LoopDisk {
    fn partition(&self, number: u32) -> String {
        format!("{}p{number}", self.device)
    }

    fn at(&self, number: u32) -> PathBuf {
        self.folder.path().join(format!("p{number}"))
    }

    /// Mounts something more.
    fn mount(&mut self, arguments: &[&str], at: &Path) -> Result<(), String> {
        fs::create_dir_all(at).unwrap();
        command("mount", &[arguments, &[at.to_str().unwrap()]].concat())?;
        self.mounted.push(at.to_owned());
        Ok(())
    }

    /// What `update-engined` says and how it ends with its state there; one that runs is stopped.
    fn start_with_state(&self, state_dir: &Path) -> (Option<i32>, String) {
        let dir = self.folder.path();
        let config = dir.join("config.toml");
        let text = format!(
            "state_dir = \"{}\"\nsocket = \"{}/control.sock\"\n[server]\napp_id = \"x\"\n[disk]\ndevice = \"{}\"\n[slots.a]\nroot = \"partlabel:root-a\"\n[slots.b]\nroot = \"partlabel:root-b\"\n[reboot]\nhooks_dir = \"{}/hooks\"\n",
            state_dir.display(),
            dir.display(),
            self.device,
            dir.display()
        );
        fs::write(&config, text).unwrap();
        let mut daemon = Command::new("timeout");
        daemon.args(["-s", "TERM", "3"]).arg(program("update-engined")).arg("--config").arg(config);
        let output = daemon.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// It runs, says what is wrong, and leaves the folder alone.
    #[track_caller]
    fn assert_left_alone(&self, state_dir: &Path, slot: &str, partition: u32) {
        let (code, said) = self.start_with_state(state_dir);
        println!("{said}");
        assert_eq!(code, Some(TIMED_OUT), "{said}");
        let place = format!("slot {slot} ({})", self.partition(partition));
        words_in(&said, &["ERROR", "nothing is done", &format!("state_dir {}", state_dir.display()), &place, "on neither slot"]);
        assert!(!state_dir.join("journal.db").exists(), "something was written there");
    }
}

/// The disk, or a return from the test with the reason printed.
macro_rules! disk_or_skip {
    () => {
        match loop_disk() {
            Ok(disk) => disk,
            Err(why) => {
                println!("skipped: {why}");
                return;
            }
        }
    };
}

#[test]
fn a_state_folder_on_either_slot_is_named_and_left_alone() {
    let disk = disk_or_skip!();
    for (slot, partition) in [("a", 1), ("b", 2)] {
        let state = disk.at(partition).join("var/lib/update-engine");
        disk.assert_left_alone(&state, slot, partition);
        assert!(!state.exists(), "nothing is made on a slot");
    }
}

#[test]
fn a_state_folder_beside_the_slots_is_not_refused() {
    let disk = disk_or_skip!();
    let state = disk.at(3).join("update-engine");
    let (code, said) = disk.start_with_state(&state);
    assert_ne!(code, Some(1), "{said}");
    words_in(&said, &["update-engined", "is up"]);
    assert!(state.join("journal.db").exists(), "{said}");
}

#[test]
fn links_and_bind_mounts_do_not_hide_a_slot() {
    let mut disk = disk_or_skip!();
    let link = disk.folder.path().join("link");
    std::os::unix::fs::symlink(disk.at(2), &link).unwrap();
    disk.assert_left_alone(&link.join("state"), "b", 2);
    let (from, at) = (disk.at(1), disk.folder.path().join("bound"));
    if let Err(why) = disk.mount(&["--bind", from.to_str().unwrap()], &at) {
        println!("skipped: {why}");
        return;
    }
    disk.assert_left_alone(&at.join("state"), "a", 1);
}

#[test]
fn an_overlay_counts_by_where_it_writes() {
    let mut disk = disk_or_skip!();
    for (upper, lower, refused) in [(3, 1, false), (1, 3, true)] {
        let [up, work] = ["up", "work"].map(|name| disk.at(upper).join(name));
        [&up, &work].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        let options = format!("lowerdir={},upperdir={},workdir={}", disk.at(lower).display(), up.display(), work.display());
        let at = disk.folder.path().join(format!("overlay-{upper}"));
        if let Err(why) = disk.mount(&["-t", "overlay", "overlay", "-o", &options], &at) {
            println!("skipped: {why}");
            return;
        }
        if refused {
            disk.assert_left_alone(&at.join("state"), "a", 1);
        } else {
            let (code, said) = disk.start_with_state(&at.join("state"));
            assert_ne!(code, Some(1), "{said}");
        }
    }
}

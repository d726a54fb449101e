//! Under GRUB, started by a BIOS; the state is kept in its environment block.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use integration::hostsim::gpt::Gpt;
use integration::vm::{Flaw, Loader, Scene, runs};

use crate::scenario;
use crate::scene;

fn grub() -> Option<Scene> {
    scene(Loader::GrubBios)
}

#[test]
fn an_image_without_init_goes_back_after_its_tries() {
    scenario::an_image_without_init_goes_back_after_its_tries(Loader::GrubBios);
}

#[test]
fn an_image_that_locks_up_goes_back_after_as_many_resets_from_outside_as_it_has_tries() {
    let Some(mut scene) = grub() else { return };
    scene.update("2.0.0", 2, Flaw::LocksUp);
    for _ in 0..3 {
        let mut boot = scene.boot("b");
        // The kernel's last words; a machine that anything resets would be off soon after them.
        boot.wait_for("---[ end Kernel panic - not syncing");
        std::thread::sleep(Duration::from_secs(3));
        assert!(boot.is_on(), "{}", boot.console());
        boot.power_cut();
    }
    drop(scenario::goes_back(&mut scene, "2.0.0", "it did not come up"));
}

/// Whoever is killed between arming and the reboot, and started again, knows what goes on.
#[test]
fn a_daemon_that_is_restarted_while_its_host_goes_down_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let when_told =
        "command = [\"sh\", \"-c\", \"touch /run/goes-down; while [ ! -e /run/go ]; do sleep 0.2; done; reboot -f\"]\n";
    let mut scene = match Scene::configured(Loader::GrubBios, dir.path(), when_told) {
        Ok(scene) => scene,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut boot = scene.boot_into("1.0.0", "a");
    scene.publish("2.0.0", 2, Flaw::None);
    assert_eq!(boot.ask("while [ ! -e /run/goes-down ]; do sleep 0.2; done").0, 0);
    let (_, killed) = boot.ask("pidof update-engined");
    assert_eq!(boot.ask(&format!("kill -9 {killed}")).0, 0, "{killed}");
    boot.ask("update-engined --config /state/config.toml >/dev/ttyS0 2>&1 &");
    let status =
        boot.wait_status("the daemon knows what goes on", |status| status["state"] == "armed" || status["state"] == "rebooting");
    assert!(status["summary"].as_str().unwrap_or_default().contains("2.0.0"), "{status}");
    let (_, started) = boot.ask("pidof update-engined");
    assert!(!started.is_empty() && started != killed, "{started}");
    boot.order("touch /run/go");
    boot.wait_off();
    drop(scene.boot_into("2.0.0", "b"));
}

#[test]
fn an_image_that_does_not_see_its_state_is_left_when_twice_its_own_deadline_has_passed() {
    let Some(mut scene) = grub() else { return };
    scene.update("2.0.0", 2, Flaw::NoState);
    let console = scene.boot("b").wait_off();
    assert!(console.contains("it was not kept within 30 s of the start of the host"), "{console}");
    assert!(console.contains("marking it bad and rebooting"), "{console}");
    drop(scenario::goes_back(&mut scene, "2.0.0", "left no reason in the state folder: it may not have seen it"));
}

#[test]
fn a_slot_that_is_damaged_after_it_was_armed_is_left_in_the_same_boot() {
    let Some(mut scene) = grub() else { return };
    scene.update("2.0.0", 2, Flaw::None);
    let disk = scene.machine.disk();
    let at = Gpt::open(&disk).unwrap().entry("root-b").unwrap().start;
    let file = std::fs::File::options().write(true).open(disk).unwrap();
    // Its superblock, and all of its beginning.
    file.write_all_at(&vec![0; 1 << 20], at).unwrap();
    let mut boot = scene.boot("b");
    boot.wait_for("ota: slot b cannot be started");
    boot.wait_for("ota: starting slot a");
    boot.wait_status("1.0.0 runs", runs("1.0.0", "a"));
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("2.0.0 rolled back to 1.0.0"), "{status}");
}

#[test]
fn a_damaged_environment_block_starts_what_was_good_last_and_is_mended() {
    let Some(mut scene) = grub() else { return };
    scene.update("2.0.0", 2, Flaw::None);
    let mut boot = scene.boot_into("2.0.0", "b");
    assert_eq!(boot.ask("dd if=/dev/zero of=/efi/grub/grubenv bs=1024 count=1 conv=notrunc && sync").0, 0);
    boot.order("reboot -f");
    boot.wait_off();
    let mut boot = scene.boot("b");
    assert!(boot.console().contains("is damaged, reading its copy"), "{}", boot.console());
    boot.wait_status("2.0.0 runs", |status| {
        let summary = status["summary"].as_str().unwrap_or_default();
        status["booted"]["version"] == "2.0.0" && summary.contains("is damaged (expected an environment block")
    });
    scene.publish("3.0.0", 3, Flaw::None);
    boot.wait_off();
    let mut boot = scene.boot_into("3.0.0", "a");
    assert!(boot.ask("head -c 24 /efi/grub/grubenv").1.contains("# GRUB Environment Block"));
    for name in ["grubenv", "grubenv.ota"] {
        assert_eq!(boot.ask(&format!("dd if=/dev/zero of=/efi/grub/{name} bs=1024 count=1 conv=notrunc && sync")).0, 0);
    }
    boot.order("reboot -f");
    boot.wait_off();
    let mut boot = scene.boot("a");
    assert!(boot.console().contains("grubenv.ota is damaged, too"), "{}", boot.console());
    boot.wait_status("the way out is shown", |status| {
        let summary = status["summary"].as_str().unwrap_or_default();
        summary.contains("grub-editenv /efi/grub/grubenv create")
    });
}

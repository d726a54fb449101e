//! Under systemd-boot, started by UEFI firmware; the state is kept in the names of its entries.

use std::os::unix::fs::FileExt as _;

use integration::hostsim::gpt::Gpt;
use integration::vm::{Flaw, Loader};

use crate::{scenario, scene};

#[test]
fn an_image_without_a_daemon_is_left_at_its_deadline() {
    scenario::an_image_without_a_daemon_is_left_at_its_deadline(Loader::SystemdBoot);
}

#[test]
fn an_image_without_init_goes_back_after_its_tries() {
    scenario::an_image_without_init_goes_back_after_its_tries(Loader::SystemdBoot);
}

/// Root, hash tree, kernel (a unified image), initrd and entry of a slot become current together; the root that runs is found below the device mapper. What a
/// power cut may leave of the other slot's files on the ESP is cleared away before that is mounted, and they are written anew.
#[test]
fn a_root_behind_dm_verity_is_kept_and_one_that_is_damaged_is_left() {
    let Some(mut scene) = scene(Loader::SystemdBootVerity) else { return };
    scene.update("2.0.0", 2, Flaw::None);
    scene.machine.lose_clusters_of("loader/entries", "os-a+0-0.new");
    scene.machine.lose_clusters_of("ota", "a.efi");
    let mut boot = scene.boot_into("2.0.0", "b");
    assert_eq!(boot.console().matches("Contains a free cluster").count(), 2, "{}", boot.console());
    assert!(boot.ask("cat /sys/class/block/dm-0/dm/uuid").1.contains("CRYPT-VERITY"));
    assert!(boot.ask("grep ' / ext4' /proc/mounts").1.contains("/dev/mapper/root"));
    scene.publish("3.0.0", 3, Flaw::None);
    boot.wait_off();
    let disk = scene.machine.disk();
    let at = Gpt::open(&disk).unwrap().entry("root-a").unwrap().start;
    std::fs::File::options().write(true).open(disk).unwrap().write_all_at(&[0xFF; 16], at + 2048).unwrap();
    for _ in 0..3 {
        let console = scene.boot("a").wait_off();
        assert!(console.contains("dm-verity device corrupted"), "{console}");
    }
    let mut boot = scene.boot_into("2.0.0", "b");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("3.0.0 rolled back to 2.0.0"), "{status}");
}

//! A whole Debian with systemd, under systemd-boot.

use integration::vm::{Addition, DebianScene};

/// `None` where it cannot be had, which is said.
fn debian() -> Option<DebianScene> {
    DebianScene::new().map_err(|why| println!("skipped: {why}")).ok()
}

#[test]
fn an_image_is_kept_once_its_boot_is_complete_and_one_whose_boot_is_not_is_left_with_the_unit_named() {
    let Some(mut scene) = debian() else { return };
    let mut boot = scene.boot_into("1.0.0", "a");
    for command in ["systemctl is-system-running", "systemctl --failed", "systemd-analyze", "systemd-analyze blame", "updatectl status", "updatectl slots", "df -h", "free -m", "findmnt", "systemctl status update-engine-trial update-engined", "updatectl config --check", "ls -l /dev/watchdog*", "systemctl show -p RuntimeWatchdogUSec"] {
        let (code, said) = boot.ask(command);
        println!("$ {command} -> {code}\n{said}");
    }
    println!("{}", boot.console());
    let began = std::time::Instant::now();
    scene.publish("2.0.0", 2, &[Addition::Check("#!/bin/sh\nexit 0\n")]);
    println!("published {:?}", began.elapsed());
    println!("{}", boot.wait_off());
    println!("off {:?}", began.elapsed());
    let mut boot = scene.boot_into("2.0.0", "b");
    println!("{}", boot.console());
}

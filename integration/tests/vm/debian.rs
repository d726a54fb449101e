//! A whole Debian with systemd, under systemd-boot.

use integration::vm::{Addition, DebianScene, Running};

/// `None` where it cannot be had, which is said.
fn debian(health: &str, factory: &[Addition<'_>]) -> Option<DebianScene> {
    DebianScene::new(health, factory).map_err(|why| println!("skipped: {why}")).ok()
}

/// What `docs/integrating.md` says of a host as it comes from the factory: each command with what it shows.
const CHECKLIST: [(&str, &str); 13] = [
    ("findmnt -no SOURCE --target /var/lib/update-engine", "/dev/nvme0n1p4"),
    ("findmnt -no FSTYPE /efi", "vfat"),
    ("stat -c %a,%U /var/lib/update-engine", "700,root"),
    ("stat -c %a,%U /run/update-engine", "755,root"),
    ("updatectl config --check && echo is right", "is right"),
    ("systemctl is-enabled update-engined update-engine-trial", "enabled\nenabled"),
    ("systemctl is-enabled systemd-bless-boot.service", "masked"),
    ("systemctl status --lines=1 --full update-engine-trial", "nothing is on trial here"),
    ("cat /proc/sys/kernel/panic", "-1"),
    ("ls /dev/watchdog0", "/dev/watchdog0"),
    ("systemctl show -p RuntimeWatchdogUSec", "RuntimeWatchdogUSec=1min"),
    ("systemctl is-system-running", "running"),
    ("updatectl status", "in slot a, confirmed"),
];

const SLOW_TO_COMPLETE: &str = "[Unit]
Description=What takes its time
Before=boot-complete.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sleep 10
[Install]
RequiredBy=boot-complete.target
";
const NEVER_COMPLETE: &str = "[Unit]
Description=What does not work
Before=boot-complete.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo the database is damaged; exit 1'
[Install]
RequiredBy=boot-complete.target
";
const PANIC: &str = "[Unit]
Description=What kills the kernel
DefaultDependencies=no
After=systemd-pstore.service
Before=update-engine-trial.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo c > /proc/sysrq-trigger'
[Install]
WantedBy=sysinit.target
";
/// systemd goes into emergency mode by it.
const CANNOT_BE_MOUNTED: Addition<'_> = Addition::Mount("tmpfs /srv tmpfs no-such-option 0 0");
/// As `docs/integrating.md` has it.
const EMERGENCY_REBOOTS: Addition<'_> = Addition::File(
    "usr/lib/systemd/system/emergency.service.d/10-reboot.conf",
    "[Service]
ExecStartPre=
ExecStart=
ExecStart=/usr/bin/systemctl --force reboot
",
);

#[test]
fn an_image_is_kept_once_its_boot_is_complete_and_one_whose_boot_never_is_goes_back_with_the_unit_named() {
    let Some(mut scene) = debian("deadline_s = 240\nsettle_s = 2\nmin_uptime_s = 60", &[]) else { return };
    let mut boot = scene.boot_into("1.0.0", "a");
    for (command, words) in CHECKLIST {
        let (_, said) = boot.ask(command);
        assert!(said.contains(words), "`{command}`: expected {words:?}, got {said:?}");
    }
    scene.publish("2.0.0", 2, &[Addition::Unit("slow.service", SLOW_TO_COMPLETE)]);
    boot.wait_off();

    let mut boot = scene.boot_into("2.0.0", "b");
    assert!(uptime_at(&boot, " INFO committed ") >= 60.0, "{}", boot.console());
    let complete = "systemctl is-active slow.service boot-complete.target update-engined.service";
    assert_eq!(boot.ask(complete).1, "active\nactive\nactive");
    assert_eq!(boot.ask("systemctl is-system-running").1, "running");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("2.0.0 in slot b, confirmed"), "{status}");
    // With a health check of its own, only boot-complete.target says that the unit has failed.
    let sooner = "health.deadline_s = 120\nhealth.min_uptime_s = 0\n";
    let additions = [
        Addition::Unit("database.service", NEVER_COMPLETE),
        Addition::Check("#!/bin/sh\nexit 0\n"),
        Addition::File("etc/update-engine/config.d/20-sooner.toml", sooner),
    ];
    scene.publish("3.0.0", 3, &additions);
    boot.wait_off();

    scene.boot("a").wait_off();
    let mut boot = scene.boot_into("2.0.0", "b");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("3.0.0 rolled back to 2.0.0"), "{status}");
    assert!(status.contains("boot-complete.target is not reached") && status.contains("database.service"), "{status}");
    assert!(scene.reports().contains("database.service"), "{}", scene.reports());
}

#[test]
fn an_image_in_emergency_mode_is_left_at_its_deadline_and_the_last_words_of_a_panic_are_kept() {
    let Some(mut scene) = debian("deadline_s = 120\nsettle_s = 2\nmin_uptime_s = 0", &[]) else { return };
    let boot = scene.boot_into("1.0.0", "a");
    scene.publish("2.0.0", 2, &[CANNOT_BE_MOUNTED]);
    boot.wait_off();

    let mut boot = scene.boot("b");
    boot.wait_for("emergency.target");
    let console = boot.wait_off();
    assert!(console.contains("marking it bad and rebooting"), "{console}");
    let mut boot = scene.boot_into("1.0.0", "a");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("2.0.0 rolled back to 1.0.0") && status.contains("update-engine-trial left it"), "{status}");
    scene.publish("3.0.0", 3, &[Addition::Unit("panic.service", PANIC)]);
    boot.wait_off();

    for _ in 0..3 {
        scene.boot("b").wait_off();
    }
    let mut boot = scene.boot_into("1.0.0", "a");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("3.0.0 rolled back to 1.0.0: it did not come up"), "{status}");
    assert!(status.contains("Kernel panic - not syncing: sysrq triggered crash"), "{status}");
    let (_, log) = boot.updatectl("history --kernel-log");
    assert!(log.contains("3.0.0 (attempt") && log.contains("what its kernel left in pstore when it died"), "{log}");
    assert!(log.contains("sysrq: Trigger a crash") && log.contains("Kernel panic - not syncing"), "{log}");
}

#[test]
fn emergency_mode_reboots_with_the_drop_in_of_the_documentation() {
    let Some(mut scene) = debian("deadline_s = 120\nsettle_s = 2", &[CANNOT_BE_MOUNTED, EMERGENCY_REBOOTS]) else { return };
    let console = scene.boot("a").wait_off();
    assert!(console.contains("Failed to mount") && console.contains("reboot: Restarting system"), "{console}");
    assert!(!console.contains("You are in emergency mode"), "{console}");
}

/// How long the guest had been up, by its clock, when it first said this.
fn uptime_at(boot: &Running, words: &str) -> f64 {
    let console = boot.console();
    let line = console.lines().find(|line| line.contains(words)).unwrap();
    let (before, _) = line[line.find('[').unwrap() + 1..].split_once(']').unwrap();
    before.trim().parse().unwrap()
}

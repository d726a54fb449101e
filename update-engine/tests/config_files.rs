//! Configuration files: every wrong one with its exact words, merging, and the commented default.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that is skipped says why"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use update_engine::config::trust::Target;
use update_engine::config::{
    BootSettings, COMMENTED_DEFAULT, ConfigError, CustomSettings, Names, Settings, Source, Strategy, load, parse,
    parse_of_another, socket_of,
};
use update_engine::slot::Location;

/// The least a configuration must say.
const LEAST: &str = r#"
[server]
app_id = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"
[disk]
device = "/dev/vda"
[slots.a]
root = "partlabel:root-a"
[slots.b]
root = "partlabel:root-b"
"#;

fn with(fragment: &str) -> Result<Settings, ConfigError> {
    parse(&[Source::new("config.toml", LEAST), Source::new("site.toml", fragment)])
}

fn words(fragment: &str) -> String {
    with(fragment).expect_err(fragment).to_string()
}

#[test]
fn what_a_newer_version_wrote_is_read_but_for_what_is_not_known_here_in_tables_and_in_lists() {
    let text = "[server]\napp_id = \"{demo}\"\n[disk]\ndevice = \"/dev/vda\"\nspeed = 3\n\
                [slots.a]\nroot = \"partlabel:a\"\n[slots.b]\nroot = \"partlabel:b\"\n\
                [[fetch.hours]]\nstart = \"08:00\"\nlength = \"1h\"\nmax_rate = \"none\"\nburst = 1\n\
                [[fetch.hours]]\nstart = \"09:00\"\nlength = \"1h\"\nmax_rate = \"1 MiB/s\"\nburst = 2\n";
    let (settings, ignored) = parse_of_another(&Source::new("config.toml", text)).unwrap();
    assert_eq!(settings.fetch.hours.len(), 2);
    assert_eq!(ignored, ["disk.speed", "fetch.hours.burst"]);
}

#[test]
fn every_bad_fragment_is_refused_with_file_line_column_key_expected_and_got() {
    let cases: &[(&str, &str)] = &[
        // Keys nobody knows.
        (
            "stat_dir = \"/x\"",
            "site.toml:1:1: stat_dir: unknown key, expected one of state_dir, socket, sysroot, server, trust, fetch, disk, slots, boot, reboot, health; did you mean \"state_dir\"?",
        ),
        (
            "\n[server]\nchanel = \"beta\"",
            "site.toml:3:1: server.chanel: unknown key, expected one of url, app_id, alias, channel, board, arch, check_interval_s, ca_file; did you mean \"channel\"?",
        ),
        (
            "[disk]\ndevice_name = \"/dev/vdb\"",
            "site.toml:2:1: disk.device_name: unknown key, expected one of device, esp, writes",
        ),
        ("[slots.c]\nroot = \"partlabel:c\"", "site.toml:1:8: slots.c: unknown key, expected a or b"),
        (
            "[reboot.lock]\nserver = \"http://h/\"",
            "site.toml:2:1: reboot.lock.server: unknown key, expected one of backend, url, group, id, token_file",
        ),
        (
            "boot.grub2.env = \"/boot/grub/grubenv\"",
            "site.toml:1:6: boot.grub2: unknown key, expected one of control, grub, systemd-boot, u-boot, efi, rpi-tryboot, custom; did you mean \"grub\"?",
        ),
        // Values of another type.
        ("state_dir = 1", "site.toml:1:13: state_dir: expected a text in quotes, got 1"),
        (
            "[server]\ncheck_interval_s = \"often\"",
            "site.toml:2:20: server.check_interval_s: expected a whole number, 0 or more, got \"often\"",
        ),
        ("[trust]\nthreshold = -1", "site.toml:2:13: trust.threshold: expected a whole number, 0 or more, got -1"),
        ("[health]\nsettle_s = 1.5", "site.toml:2:12: health.settle_s: expected a whole number, 0 or more, got 1.5"),
        ("[reboot]\ncommand = \"reboot\"", "site.toml:2:11: reboot.command: expected a list, got \"reboot\""),
        ("[reboot]\ncommand = [\"a\", 1]", "site.toml:2:17: reboot.command: expected a text in quotes, got 1"),
        ("server = \"http://h/\"", "site.toml:1:10: server: expected a table, got \"http://h/\""),
        ("[server.url]\nhost = \"h\"", "site.toml:1:1: server.url: expected a text in quotes, got a table"),
        ("socket = [\"/a\"]", "site.toml:1:10: socket: expected a text in quotes, got a list"),
        ("[slots.a]\nroot = true", "site.toml:2:8: slots.a.root: expected a text in quotes, got true"),
        (
            "[trust]\nthreshold = \"http://me:secret@h/\"",
            "site.toml:2:13: trust.threshold: expected a whole number, 0 or more, got \"http://***@h/\"",
        ),
        // No TOML.
        ("[server", "site.toml:1:8: not valid TOML: unclosed table, expected `]`"),
        ("state_dir = /var", "site.toml:1:13: not valid TOML: string values must be quoted, expected literal string"),
        ("[server]\nboard = \"a\"\nboard = \"b\"", "site.toml:3:1: not valid TOML: duplicate key"),
        // Values out of range.
        ("state_dir = \"state\"", "site.toml:1:13: state_dir: expected an absolute path, got \"state\""),
        ("[server]\ncheck_interval_s = 0", "site.toml:2:20: server.check_interval_s: expected 1 to 14400 seconds, got 0"),
        ("[trust]\nthreshold = 0", "site.toml:2:13: trust.threshold: expected 1 to 64 keys, got 0"),
        ("[trust]\nstale_after_days = 9999999", "site.toml:2:20: trust.stale_after_days: expected 1 to 3650 days, got 9999999"),
        ("[health]\nhook_timeout_s = 3601", "site.toml:2:18: health.hook_timeout_s: expected 1 to 3600 seconds, got 3601"),
        ("[health]\nsettle_s = 300", "site.toml:2:12: health.settle_s: expected settle_s below deadline_s, got 300 and 300"),
        (
            "[health]\nmin_uptime_s = 300",
            "site.toml:2:16: health.min_uptime_s: expected min_uptime_s below deadline_s, got 300 and 300",
        ),
        (
            "[health]\nmin_uptime_s = 120\ndeadline_s = 100",
            "site.toml:2:16: health.min_uptime_s: expected min_uptime_s below deadline_s, got 120 and 100",
        ),
        (
            "[server]\nurl = \"ftp://me:secret@updates.example/\"",
            "site.toml:2:7: server.url: expected a URL that starts with http:// or https:// and names a host, got \"ftp://***@updates.example/\"",
        ),
        (
            "[server]\napp_id = \"\"",
            "site.toml:2:10: server.app_id: expected the product's id, such as \"{e96281a6-…}\", got nothing",
        ),
        (
            "[server]\nboard = \"\"",
            "site.toml:2:9: server.board: expected a board's name (\"generic\" for a product without boards), got nothing",
        ),
        (
            "[server]\nchannel = \"my channel\"",
            "site.toml:2:11: server.channel: expected at most 64 printable ASCII characters without blanks, got \"my channel\"",
        ),
        (
            "[reboot]\ncommand = []",
            "site.toml:2:11: reboot.command: expected a program and its arguments, such as [\"systemctl\", \"reboot\"], got none",
        ),
        (
            "[reboot]\nstrategy = \"etcd-lock\"",
            "site.toml:2:12: reboot.strategy: expected one of immediate, lock, manual, got \"etcd-lock\"",
        ),
        // Values that do not fit each other.
        (
            "[slots.a]\nverity = \"partlabel:verity-a\"",
            "config.toml:8:8: slots.b: expected the image \"verity\" that slots.a has, got none",
        ),
        (
            "[slots.b]\nroot = \"partlabel:root-a\"",
            "site.toml:2:8: slots.b.root: expected a place of its own, got the one of slots.a.root",
        ),
        (
            "[slots.b]\nroot = \"root-b\"",
            "site.toml:2:8: slots.b.root: \"root-b\" names no target: expected \"partlabel:NAME\", \"esp:/PATH\" with {slot} in it, or an absolute path\nsite.toml:1:8: slots.b: expected the image \"root\" that slots.a has, got none",
        ),
        (
            "[reboot.lock]\nbackend = \"fleetlock\"\nurl = \"http://h/\"",
            "site.toml:2:11: reboot.lock.backend: expected no lock with reboot.strategy = \"immediate\", got backend = \"fleetlock\"; say strategy = \"lock\" to use it",
        ),
        (
            "reboot.strategy = \"lock\"",
            "config.toml: reboot.lock.backend: reboot.strategy = \"lock\" needs a lock: expected backend = \"fleetlock\" and a url, got none",
        ),
        (
            "[reboot.lock]\nurl = \"http://h/\"",
            "site.toml:2:7: reboot.lock.url: expected backend = \"fleetlock\" (or \"none\") beside it, got no backend",
        ),
        (
            "[reboot]\nstrategy = \"manual\"\nlock.backend = \"fleetlock\"",
            "config.toml: reboot.lock.url: expected the URL of the lock service, got nothing",
        ),
        (
            "[reboot]\nstrategy = \"manual\"\nlock.backend = \"zookeeper\"",
            "site.toml:3:16: reboot.lock.backend: expected none or fleetlock, got \"zookeeper\"",
        ),
        (
            "[boot]\ncontrol = \"grub\"\ngrub.env = \"grubenv\"",
            "site.toml:3:12: boot.grub.env: expected an absolute path, got \"grubenv\"",
        ),
        (
            "[boot]\ncontrol = \"grub\"\ngrub.copy = \"/boot/grub/grubenv\"",
            "site.toml:3:13: boot.grub.copy: expected another file than boot.grub.env, got the same",
        ),
        (
            "[boot]\ncontrol = \"grub\"\ngrub.variables = \"swupdate\"",
            "site.toml:3:18: boot.grub.variables: expected ota or rauc, got \"swupdate\"",
        ),
        (
            "[boot]\ncontrol = \"grub\"\ngrub.names = { a = \"A\" }",
            "site.toml:3:6: boot.grub.names: names of slots count only with boot.grub.variables = \"rauc\"",
        ),
        (
            "[boot]\ncontrol = \"grub\"\ngrub = { variables = \"rauc\", names = { a = \"B\" } }",
            "site.toml:3:30: boot.grub.names: expected two names, got \"B\" for both slots",
        ),
        (
            "[boot]\ncontrol = \"grub\"\ngrub = { variables = \"rauc\", names = { a = \"A B\" } }",
            "site.toml:3:44: boot.grub.names.a: expected 1 to 32 of A-Z, a-z, 0-9, \"-\", \"_\", \".\", got \"A B\"",
        ),
        (
            "[boot]\ncontrol = \"systemd-boot\"\nsystemd-boot.prefix = \"debian\"\n[slots.a]\nentry = \"esp:/ota/{slot}.entry\"\n[slots.b]\nentry = \"esp:/ota/{slot}.entry\"",
            "site.toml:3:23: boot.systemd-boot.prefix: expected 1 or 2 of a-z, so that the names of entries stay short enough to be changed in one piece, got \"debian\"",
        ),
        (
            "[boot]\ncontrol = \"systemd-boot\"\nsystemd-boot.esp = \"/boot\"\n[slots.a]\nentry = \"esp:/loader/entries/{slot}.conf\"\n[slots.b]\nentry = \"esp:/efi/linux/{slot}.efi\"",
            "site.toml:3:20: boot.systemd-boot.esp: expected the partition of disk.esp (/efi), which has the slots' files, got /boot\n\
             site.toml:5:9: slots.a.entry: expected a file that systemd-boot does not find by itself, such as \"esp:/ota/{slot}.efi\", got one in /loader\n\
             site.toml:4:8: slots.a: expected an image at \"esp:/ota/{slot}.entry\", the text of its entry for systemd-boot, got none\n\
             site.toml:7:9: slots.b.entry: expected a file that systemd-boot does not find by itself, such as \"esp:/ota/{slot}.efi\", got one in /EFI/Linux\n\
             site.toml:6:8: slots.b: expected an image at \"esp:/ota/{slot}.entry\", the text of its entry for systemd-boot, got none",
        ),
        (
            "[boot]\ncontrol = \"u-boot\"\nu-boot.config = \"fw_env.config\"",
            "site.toml:3:17: boot.u-boot.config: expected an absolute path, got \"fw_env.config\"",
        ),
        (
            "[boot]\ncontrol = \"u-boot\"\nu-boot.names.b = \"system-1\"",
            "site.toml:3:18: boot.u-boot.names.b: expected A-Z, a-z, 0-9, \"_\", as in the names of U-Boot's variables, got \"system-1\"",
        ),
        (
            "[boot]\ncontrol = \"u-boot\"\nu-boot.names.b = \"A\"",
            "site.toml:3:8: boot.u-boot.names: expected two names, got \"A\" for both slots",
        ),
        (
            "reboot.command = [\"r\"]\n[boot]\ncontrol = \"rpi-tryboot\"\nrpi-tryboot.partitions.b = 2",
            "site.toml:4:13: boot.rpi-tryboot.partitions: expected two partitions, got 2 for both slots",
        ),
        (
            "reboot.command = [\"r\"]\n[boot]\ncontrol = \"rpi-tryboot\"\nrpi-tryboot.partitions.b = 129",
            "site.toml:4:28: boot.rpi-tryboot.partitions.b: expected the number of a partition, 1 to 128, got 129",
        ),
        (
            "boot.control = \"rpi-tryboot\"",
            "config.toml: reboot.command: boot.control = \"rpi-tryboot\" needs a reboot with the argument \"0 tryboot\": expected one such as [\"systemctl\", \"reboot\", \"--reboot-argument=0 tryboot\"], got \"systemctl reboot\"",
        ),
        (
            "boot.control = \"rpi-tryboot\"\nreboot.command = [\"/sbin/reboot\"]",
            "site.toml:2:18: reboot.command: boot.control = \"rpi-tryboot\" needs a reboot with the argument \"0 tryboot\": expected one such as [\"systemctl\", \"reboot\", \"--reboot-argument=0 tryboot\"], got \"/sbin/reboot\"",
        ),
        (
            "[boot]\ncontrol = \"efi\"\nefi.efivars = \"efivars\"",
            "site.toml:3:15: boot.efi.efivars: expected an absolute path, got \"efivars\"",
        ),
        (
            "[boot]\ncontrol = \"efi\"\nefi.names = { b = \"ota-a\" }",
            "site.toml:3:5: boot.efi.names: expected two names, got \"ota-a\" for both slots",
        ),
        (
            "boot.control = \"custom\"",
            "config.toml: boot.custom.program: expected the program that knows the boot loader, got nothing",
        ),
        (
            "[boot]\ncontrol = \"custom\"\ncustom.program = \"boot-program\"",
            "site.toml:3:18: boot.custom.program: expected an absolute path, got \"boot-program\"",
        ),
        (
            "[boot]\ncontrol = \"custom\"\ncustom = { program = \"/p\", tries = 0 }",
            "site.toml:3:36: boot.custom.tries: expected 1 to 9 boots, got 0",
        ),
        (
            "[fetch]\nmax_rate = \"fast\"",
            "site.toml:2:12: fetch.max_rate: expected a rate such as \"500 KiB/s\", \"2 MiB/s\" or \"10 Mbit/s\", or \"none\", got \"fast\"",
        ),
        (
            "[fetch]\nhours = [{ start = \"8\", length = \"1h\", max_rate = \"1 MiB/s\" }]",
            "site.toml:2:9: fetch.hours: entry 1: start: expected a time of day such as \"02:00\", got \"8\"",
        ),
        (
            "[fetch]\nhours = [{ start = \"08:00\", length = \"1h\" }]",
            "site.toml:2:9: fetch.hours: entry 1: max_rate: expected a rate, or \"none\" for as fast as it goes, got nothing",
        ),
        (
            "[fetch]\nhours = [{ start = \"08:00\", length = \"1h\", max_rate = \"none\" }, { start = \"10:00\", length = \"1h\", max_rate = \"1 B/s\" }]",
            "site.toml:2:9: fetch.hours: entry 2: max_rate: expected at least 4 KiB/s, got \"1 B/s\": nothing would ever arrive",
        ),
        // What other builds have.
        (
            "[reboot]\nwindows = [{ days = [\"Tue\"], start = \"02:00\", length = \"3h\", zone = \"Europe/Berlin\" }]",
            "site.toml:2:11: reboot.windows: reboot.windows is not available in this build; leave it empty",
        ),
        (
            "[slots.a]\nroot = \"esp:/vmlinuz\"",
            "site.toml:2:8: slots.a.root: \"esp:/vmlinuz\" names no file: expected \"{slot}\" in it, so that each slot has a file of its own\nsite.toml:1:8: slots.a: expected the image \"root\" that slots.b has, got none",
        ),
        (
            "boot.control = \"lilo\"",
            "site.toml:1:16: boot.control: expected one of gpt, grub, systemd-boot, u-boot, efi, rpi-tryboot, custom, got \"lilo\"",
        ),
    ];
    for (fragment, expected) in cases {
        assert_eq!(words(fragment), *expected, "for {fragment:?}");
    }
}

#[test]
fn an_empty_configuration_names_everything_that_is_missing_at_once() {
    let error = parse(&[Source::new("config.toml", "")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.toml: server.app_id: expected the product's id, such as \"{e96281a6-…}\", got nothing\n\
         config.toml: disk.device: expected the disk that carries the slots, such as \"/dev/vda\", got nothing\n\
         config.toml: slots.a: expected a target for each image of a release, such as root = \"partlabel:root-a\", got nothing\n\
         config.toml: slots.b: expected a target for each image of a release, such as root = \"partlabel:root-a\", got nothing"
    );
}

#[test]
fn problems_of_several_files_are_told_together() {
    let error = parse(&[
        Source::new("config.toml", "stat_dir = 1"),
        Source::new("a.toml", "[server]\nurl = 1"),
        Source::new("b.toml", "= 2"),
    ])
    .unwrap_err();
    let files: Vec<&str> = error.problems().iter().map(|problem| problem.file.as_str()).collect();
    assert_eq!(files, ["config.toml", "a.toml", "b.toml"]);
}

#[test]
fn a_socket_path_longer_than_a_sockets_address_is_refused() {
    let path = format!("/{}", "s".repeat(107));
    assert_eq!(words(&format!("socket = \"{path}\"")), "site.toml:1:10: socket: expected a path of at most 107 bytes, got 108");
    assert!(with(&format!("socket = \"{}\"", &path[..107])).is_ok());
}

#[test]
fn tables_merge_deeply_and_lists_are_replaced() {
    let settings = parse(&[
        Source::new("config.toml", LEAST),
        Source::new(
            "10.toml",
            "[server]\nchannel = \"beta\"\nboard = \"x1\"\n[reboot]\ncommand = [\"shutdown\", \"-r\", \"now\"]",
        ),
        Source::new("20.toml", "server.board = \"x2\"\nreboot.command = [\"reboot\"]\n[slots]\na.root = \"/dev/vda7\""),
    ])
    .unwrap();
    assert_eq!(settings.server.app_id, "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}");
    assert_eq!((settings.server.channel.as_str(), settings.server.board.as_str()), ("beta", "x2"));
    assert_eq!(settings.reboot.command, ["reboot"]);
    assert_eq!(settings.slots.a.images["root"], Location::Path(PathBuf::from("/dev/vda7")));
    assert_eq!(settings.slots.b.images["root"], Location::PartLabel("root-b".into()));
}

#[test]
fn a_problem_is_blamed_on_the_file_that_set_the_value_last() {
    let error = parse(&[
        Source::new("config.toml", LEAST),
        Source::new("10.toml", "health.deadline_s = 60"),
        Source::new("20.toml", "\nhealth.deadline_s = 0"),
        Source::new("30.toml", "health.hook_timeout_s = 5"),
    ])
    .unwrap_err();
    assert_eq!(error.problems()[0].to_string(), "20.toml:2:21: health.deadline_s: expected 1 to 86400 seconds, got 0");
}

#[test]
fn defaults_are_those_of_the_contract() {
    let settings = with("").unwrap();
    assert_eq!(settings.state_dir, Path::new("/var/lib/update-engine"));
    assert_eq!(settings.socket, Path::new("/run/update-engine/control.sock"));
    assert_eq!(settings.sysroot, Path::new("/"));
    assert_eq!(settings.server.url, None);
    assert_eq!(settings.server.channel, "stable");
    assert_eq!(settings.server.board, "generic");
    assert_eq!(settings.server.check_interval, Duration::from_secs(2700));
    assert_eq!(settings.server.ca_file, None);
    assert!(!settings.server.arch.is_empty());
    assert_eq!(settings.trust.keyring_dir, Path::new("/usr/share/update-engine/keys"));
    assert_eq!(settings.trust.threshold, 1);
    assert_eq!(settings.trust.stale_after, Duration::from_secs(60 * 86_400));
    assert_eq!(settings.reboot.strategy, Strategy::Immediate);
    assert_eq!(settings.reboot.command, ["systemctl", "reboot"]);
    assert_eq!(settings.reboot.retry, Duration::from_secs(60));
    assert_eq!(settings.reboot.hooks_dir, Path::new("/etc/update-engine"));
    assert_eq!(settings.reboot.lock, None);
    assert_eq!(settings.health.deadline, Duration::from_secs(300));
    assert_eq!(settings.health.settle, Duration::from_secs(30));
    assert_eq!(settings.health.min_uptime, Duration::from_secs(120));
    assert_eq!(settings.health.hook_timeout, Duration::from_secs(60));
    assert_eq!(settings.floor_file(), Path::new("/usr/share/update-engine/floor"));
}

#[test]
fn sysroot_prefixes_the_keyring_and_the_images_floor_and_nothing_else() {
    let settings = with("sysroot = \"/mnt/image\"\n[server]\nca_file = \"/etc/ca.pem\"").unwrap();
    assert_eq!(settings.trust.keyring_dir, Path::new("/mnt/image/usr/share/update-engine/keys"));
    assert_eq!(settings.floor_file(), Path::new("/mnt/image/usr/share/update-engine/floor"));
    assert_eq!(settings.under_sysroot("/proc/cmdline"), Path::new("/mnt/image/proc/cmdline"));
    assert_eq!(settings.state_dir, Path::new("/var/lib/update-engine"));
    assert_eq!(settings.reboot.hooks_dir, Path::new("/etc/update-engine"));
    assert_eq!(settings.server.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
}

#[test]
fn a_short_deadline_alone_leaves_a_least_uptime_that_fits_and_another_sysroot_has_none() {
    for (deadline_s, expected_s) in [(1, 0), (20, 10), (239, 119), (240, 120), (86_400, 120)] {
        let settings = with(&format!("health.deadline_s = {deadline_s}\nhealth.settle_s = 0")).unwrap();
        assert_eq!(settings.min_uptime(), Duration::from_secs(expected_s), "{deadline_s}");
    }
    assert_eq!(with("health.min_uptime_s = 0").unwrap().min_uptime(), Duration::ZERO);
    assert_eq!(with("sysroot = \"/mnt/image\"").unwrap().min_uptime(), Duration::ZERO);
}

#[test]
fn a_lock_is_read_whole() {
    let settings = with(
        "[reboot]\nstrategy = \"lock\"\n[reboot.lock]\nbackend = \"fleetlock\"\nurl = \"http://me:pw@locksmith.example:8085/\"\ngroup = \"web\"\nid = \"web-1\"\ntoken_file = \"/etc/update-engine/token\"",
    )
    .unwrap();
    let lock = settings.reboot.lock.unwrap();
    assert_eq!(lock.url.to_string(), "http://***@locksmith.example:8085/");
    assert_eq!((lock.group.as_str(), lock.id.as_deref()), ("web", Some("web-1")));
    assert_eq!(lock.token_file.as_deref(), Some(Path::new("/etc/update-engine/token")));
}

#[test]
fn a_lock_switched_off_by_name_may_keep_its_other_keys() {
    let settings = with("[reboot.lock]\nbackend = \"none\"\nurl = \"http://h/\"").unwrap();
    assert_eq!(settings.reboot.lock, None);
}

#[test]
fn the_effective_configuration_reads_back_to_the_same_settings() {
    let settings = with(
        "sysroot = \"/mnt\"\n[server]\nurl = \"https://h/v1/update/\"\nalias = \"web 1\"\n[reboot]\nstrategy = \"manual\"\n[reboot.lock]\nbackend = \"fleetlock\"\nurl = \"http://l/\"\n[slots]\na.kernel = \"/dev/vda3\"\nb.kernel = \"/dev/vda4\"",
    )
    .unwrap();
    let text = settings.to_toml().unwrap();
    assert_eq!(parse(&[Source::new("effective", text.as_str())]).unwrap(), settings, "{text}");
}

#[test]
fn boot_controls_are_read_whole_and_read_back_to_the_same_settings() {
    let settings =
        with("[boot]\ncontrol = \"custom\"\ncustom = { program = \"/usr/lib/p\", tries = 3, names = { a = \"x\" } }").unwrap();
    let names = Names { a: "x".to_owned(), b: "B".to_owned() };
    assert_eq!(settings.boot, BootSettings::Custom(CustomSettings { program: "/usr/lib/p".into(), tries: 3, names }));
    assert!(settings.trust_targets(&[]).contains(&Target::File("/usr/lib/p".into())), "what root runs is root's alone");
    for boot in ["control = \"efi\"", "control = \"custom\"\ncustom.program = \"/p\""] {
        let settings = with(&format!("[boot]\n{boot}")).unwrap();
        let text = settings.to_toml().unwrap();
        assert_eq!(parse(&[Source::new("effective", text.as_str())]).unwrap(), settings, "{text}");
        let program = settings.trust_targets(&[]).contains(&Target::File("/p".into()));
        assert_eq!(program, boot.contains("/p"));
    }
}

#[test]
fn the_effective_configuration_shows_no_credentials() {
    let text = with("server.url = \"https://me:secret@h/u?token=secret\"").unwrap().to_toml().unwrap();
    assert!(text.contains("url = \"https://***@h/u?***\""), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

/// Lines `#key = value` are settings, lines `# words` are words.
fn uncommented(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with([' ', '#'])).unwrap_or(line)
}

fn all_uncommented() -> String {
    COMMENTED_DEFAULT.lines().map(|line| format!("{}\n", uncommented(line))).collect()
}

/// What the packaged file stands for where there is no default.
const EXAMPLES: &str = r#"
server.app_id = "{00000000-0000-4000-8000-000000000000}"
disk.device = "/dev/vda"
slots.a.root = "partlabel:root-a"
slots.b.root = "partlabel:root-b"
"#;

#[test]
fn the_packaged_file_uncommented_comes_to_the_defaults() {
    let expected = parse(&[Source::new("examples", EXAMPLES)]).unwrap();
    assert_eq!(parse(&[Source::new("dist/config.toml", all_uncommented())]).unwrap(), expected);
}

#[test]
fn each_line_of_the_packaged_file_uncommented_alone_changes_nothing() {
    let expected = parse(&[Source::new("examples", EXAMPLES)]).unwrap();
    let lines: Vec<&str> = COMMENTED_DEFAULT.lines().collect();
    let settings = (0..lines.len()).filter(|&index| uncommented(lines[index]) != lines[index]);
    let mut seen = 0;
    for chosen in settings {
        let one = |(index, line): (usize, &&str)| if index == chosen { uncommented(line).to_owned() } else { (*line).to_owned() };
        let text: Vec<String> = lines.iter().enumerate().map(one).collect();
        let sources = [Source::new("examples", EXAMPLES), Source::new("dist/config.toml", text.join("\n"))];
        assert_eq!(parse(&sources).unwrap(), expected, "line {}: {}", chosen + 1, lines[chosen]);
        seen += 1;
    }
    assert!(seen > 25, "only {seen} keys found in the packaged file");
}

#[test]
fn the_packaged_file_has_every_key() {
    let with_lock = format!(
        "{EXAMPLES}\nreboot.strategy = \"lock\"\nreboot.lock.backend = \"fleetlock\"\nreboot.lock.url = \"http://h/\"\nreboot.command = [\"reboot\", \"0 tryboot\"]"
    );
    let keys = |text: &str| {
        let mut keys = Vec::new();
        collect_keys("", &text.parse::<toml::Table>().unwrap(), &mut keys);
        keys
    };
    // The table of a boot loader is effective where that is chosen.
    let mut effective = std::collections::BTreeSet::new();
    let controls = [
        "control = \"gpt\"",
        "control = \"grub\"\ngrub.variables = \"rauc\"",
        "control = \"systemd-boot\"",
        "control = \"u-boot\"",
        "control = \"rpi-tryboot\"",
        "control = \"efi\"",
        "control = \"custom\"\ncustom.program = \"/p\"",
    ];
    for boot in controls {
        let text = format!("{with_lock}\n[boot]\n{boot}\n");
        let entries = "slots.a.entry = \"esp:/ota/{slot}.entry\"\nslots.b.entry = \"esp:/ota/{slot}.entry\"";
        let settings = parse(&[Source::new("examples", text), Source::new("entries", entries)]).unwrap();
        effective.extend(keys(&settings.to_toml().unwrap()).into_iter().filter(|key| !key.ends_with(".entry")));
    }
    assert_eq!(keys(&all_uncommented()), effective.into_iter().collect::<Vec<_>>());
}

fn collect_keys(prefix: &str, table: &toml::Table, keys: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => collect_keys(&format!("{path}."), inner, keys),
            _ => keys.push(path),
        }
    }
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn files_beside_the_configuration_are_merged_in_order_of_name() {
    let folder = TempDir::new().unwrap();
    let main = write(&folder, "config.toml", LEAST);
    let second = write(&folder, "config.d/20-site.toml", "server.channel = \"second\"");
    let first = write(&folder, "config.d/10-site.toml", "server.channel = \"first\"\nserver.board = \"x1\"");
    write(&folder, "config.d/.hidden.toml", "garbage");
    write(&folder, "config.d/30-site.toml.bak", "garbage");
    let loaded = load(&main).unwrap();
    assert_eq!(loaded.files, [main, first, second]);
    assert_eq!((loaded.settings.server.channel.as_str(), loaded.settings.server.board.as_str()), ("second", "x1"));
}

#[test]
fn a_file_that_is_missing_too_long_no_text_or_no_file_is_named() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("config.toml");
    let error = load(&missing).unwrap_err().to_string();
    assert_eq!(error, format!("{}: cannot read the configuration: No such file or directory (os error 2)", missing.display()));

    let long = write(&folder, "long.toml", &"#".repeat(1024 * 1024 + 1));
    let error = load(&long).unwrap_err().to_string();
    assert_eq!(error, format!("{}: expected at most 1048576 bytes, got more", long.display()));

    let binary = folder.path().join("binary.toml");
    fs::write(&binary, b"a = \"\xff\"").unwrap();
    let error = load(&binary).unwrap_err().to_string();
    assert_eq!(error, format!("{}: expected UTF-8 text, got something else at byte 5", binary.display()));

    let error = load(folder.path()).unwrap_err().to_string();
    assert_eq!(error, format!("{}: cannot read the configuration: not a regular file", folder.path().display()));
}

#[test]
fn more_than_256_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let main = write(&folder, "config.toml", LEAST);
    for number in 0..256 {
        write(&folder, &format!("config.d/{number:03}.toml"), "");
    }
    assert_eq!(load(&main).unwrap().files.len(), 257);
    write(&folder, "config.d/one-more.toml", "");
    assert!(load(&main).unwrap_err().to_string().ends_with("config.d: expected at most 256 files, got more"));
}

#[test]
fn the_socket_is_found_even_when_the_rest_is_broken() {
    let folder = TempDir::new().unwrap();
    let main = write(&folder, "config.toml", "socket = \"/run/one.sock\"\nnonsense = 1");
    write(&folder, "config.d/10.toml", "socket = \"/run/two.sock\"");
    write(&folder, "config.d/20.toml", "not TOML");
    assert!(load(&main).is_err());
    assert_eq!(socket_of(&main).unwrap(), Path::new("/run/two.sock"));
    let silent = write(&folder, "other/config.toml", "");
    assert_eq!(socket_of(&silent).unwrap(), Path::new("/run/update-engine/control.sock"));
}

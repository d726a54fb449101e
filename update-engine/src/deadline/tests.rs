use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use super::leave::{MAX_LEAVES, end};
use super::program::{OnceEach, watch_beside};
use super::stuck::Stuck;
use super::task::{Looked, Task, UNKNOWN};
use super::{DeadlineError, Ended, Left, Places, Trial, Watch, watch};
use crate::boot::gpt::GptControl;
use crate::boot::gpt::fixture::DiskBuilder;
use crate::boot::grub::Block;
use crate::boot::{BootControl as _, Permit, Standing};
use crate::config::{self, Settings, Source};
use crate::deadline::write_down;
use crate::kernel_log::KernelLog;
use crate::slot::Mode;
use crate::slot::rig::{Rig, name, proven};

const HASTE: Watch = Watch {
    look_every: Duration::from_millis(5),
    reboot_within: Duration::from_millis(300),
    without_deadline: Duration::from_millis(1),
};

/// A host whose slot b was armed, written down, and started so long ago. Its reboot command leaves a file.
struct Host {
    rig: Rig,
    settings: Settings,
}

impl Host {
    fn on_trial(up_s: u64) -> Self {
        Self::with_command(up_s, &["touch", "DIR/rebooted"])
    }

    fn with_command(up_s: u64, command: &[&str]) -> Self {
        let host = Self::new(Rig::with_slots_of(16), command);
        let (disk, running) = (host.rig.disk(), host.rig.running());
        let mut control = GptControl::new(&disk).unwrap();
        control.mark_good(&running).unwrap();
        control.disarm(&name("b"), &running).unwrap();
        control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
        host.rig.boot(1);
        host.is_up_for(up_s);
        host
    }

    fn new(rig: Rig, command: &[&str]) -> Self {
        let dir = rig.folder.path().display().to_string();
        let command: Vec<String> = command.iter().map(|word| format!("{:?}", word.replace("DIR", &dir))).collect();
        let text = format!(
            "state_dir = \"{dir}/state\"\nsysroot = \"{dir}\"\nserver.app_id = \"x\"\ndisk.device = \"{dir}/disk.img\"\n\
             slots.a.root = \"partlabel:root-a\"\nslots.b.root = \"partlabel:root-b\"\nreboot.command = [{}]\n",
            command.join(", ")
        );
        let settings = config::parse(&[Source::new("test", &text)]).unwrap();
        std::fs::write(rig.folder.path().join("config.toml"), text).unwrap();
        std::fs::create_dir(&settings.state_dir).unwrap();
        let trial = Trial {
            slot: manifests::release::SlotName::B,
            version: "1.1.0".into(),
            attempt: "one".into(),
            deadline: Duration::from_secs(600),
        };
        write_down(&trial, &settings).unwrap();
        Self { rig, settings }
    }

    fn is_up_for(&self, seconds: u64) {
        // In one piece: it may be read at any moment.
        let path = self.rig.folder.path().join("proc/uptime");
        std::fs::write(path.with_extension("new"), format!("{seconds}.17 3.00\n")).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn watch(&self) -> Result<Ended, DeadlineError> {
        let places = Places { state_dir: self.settings.state_dir.clone(), config: self.rig.folder.path().join("config.toml") };
        watch(&places, HASTE)
    }

    /// The state folder is not mounted in this image.
    fn without_state(up_s: u64) -> Self {
        let host = Self::on_trial(up_s);
        std::fs::rename(&host.settings.state_dir, host.unmounted()).unwrap();
        host
    }

    fn unmounted(&self) -> PathBuf {
        self.rig.folder.path().join("unmounted")
    }

    fn mark_good(&self) {
        GptControl::new(&self.rig.disk()).unwrap().mark_good(&self.rig.running()).unwrap();
    }

    fn standing(&self) -> Standing {
        GptControl::new(&self.rig.disk()).unwrap().read().unwrap().standing(&name("b")).unwrap()
    }

    fn rebooted(&self) -> bool {
        self.rig.folder.path().join("rebooted").exists()
    }
}

fn left(host: &Host) -> Left {
    match host.watch() {
        Ok(Ended::Left(left)) => left,
        other => panic!("{other:?}"),
    }
}

#[test]
fn design_11_2_a_slot_that_nobody_keeps_is_marked_bad_and_left_when_its_deadline_has_passed() {
    let host = Host::on_trial(600);
    let left = left(&host);
    assert_eq!((left.times, host.standing(), host.rebooted()), (1, Standing::Bad, true));
    assert_eq!(KernelLog::load(&host.settings.state_dir).unwrap(), None, "this host has no /dev/kmsg");
    assert_eq!(Left::load(&host.settings.state_dir).unwrap(), Some(left));
}

#[test]
fn what_the_kernel_of_a_slot_that_is_left_has_said_is_kept_and_a_full_disk_keeps_nobody_in_it() {
    let host = Host::on_trial(600);
    std::fs::create_dir(host.rig.folder.path().join("dev")).unwrap();
    std::fs::write(host.rig.folder.path().join("dev/kmsg"), "3,1,590000000,-;BUG: nvme0: I/O timeout\n").unwrap();
    left(&host);
    let log = KernelLog::load(&host.settings.state_dir).unwrap().unwrap();
    assert_eq!((log.attempt.as_str(), log.telling_line().as_deref()), ("one", Some("BUG: nvme0: I/O timeout")));

    let host = Host::on_trial(600);
    std::fs::create_dir_all(host.rig.folder.path().join("dev/kmsg")).unwrap();
    std::fs::create_dir(host.settings.state_dir.join("trial.log.new")).unwrap();
    left(&host);
    assert_eq!((host.standing(), host.rebooted()), (Standing::Bad, true));
}

#[test]
fn it_waits_for_the_deadline_and_ends_as_soon_as_the_slot_is_kept() {
    let host = Host::on_trial(599);
    let before = host.rig.bytes();
    std::thread::scope(|threads| {
        let watching = threads.spawn(|| host.watch());
        sleep(Duration::from_millis(200));
        assert!(!watching.is_finished() && host.rig.bytes() == before, "it did not wait");
        host.mark_good();
        assert!(matches!(watching.join().unwrap(), Ok(Ended::Kept(trial)) if trial.attempt == "one"));
    });
    assert!(!host.rebooted());
}

#[test]
fn where_the_old_slot_runs_or_nothing_was_written_down_nothing_is_touched() {
    let host = Host::on_trial(100_000);
    let before = host.rig.bytes();
    host.rig.boot(0);
    assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
    assert!(host.rig.bytes() == before);
    host.rig.boot(1);
    host.mark_good();
    super::forget(&host.settings.state_dir).unwrap();
    let before = host.rig.bytes();
    assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
    assert_eq!((host.rig.bytes() == before, host.rebooted()), (true, false));
}

#[test]
fn p10_a_loader_that_does_not_obey_ends_in_a_host_that_stays() {
    let host = Host::on_trial(600);
    for times in 1..=MAX_LEAVES {
        assert_eq!(left(&host).times, times);
    }
    std::fs::remove_file(host.rig.folder.path().join("rebooted")).unwrap();
    match host.watch().unwrap() {
        Ended::Stays { why, .. } => {
            assert!(why.contains("it was left 3 times, and the loader has started it all the same"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    assert!(!host.rebooted());
}

#[test]
fn without_a_way_back_or_a_count_that_can_be_kept_the_host_stays() {
    let host = Host::on_trial(600);
    // How often it was left cannot be written down: where its tries are counted by the loader it is left all the same, once.
    let in_the_way = host.settings.state_dir.join("trial.left.new");
    std::fs::create_dir(&in_the_way).unwrap();
    assert_eq!(left(&host).times, 1);
    match host.watch().unwrap() {
        Ended::Stays { why, .. } => assert!(why.contains("cannot be written down"), "{why}"),
        other => panic!("{other:?}"),
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    // The old slot has lost its marks; b has rank 1, two tries left, and runs.
    let host = Host::new(Rig::new(&DiskBuilder::new(512).bits(1, 1 << 48 | 2 << 52), 1), &["touch", "DIR/rebooted"]);
    host.is_up_for(600);
    match host.watch().unwrap() {
        Ended::Stays { why, .. } => assert_eq!(why, "the other slot cannot be booted, so there is no way back"),
        other => panic!("{other:?}"),
    }
    assert!(!host.rebooted());
}

#[test]
fn a_count_that_cannot_be_read_keeps_nobody_in_a_slot_on_trial_and_starts_anew() {
    for nonsense in ["", "ota trial left v1\nattempt one\ntimes many\n", "\0\0\0\0"] {
        let host = Host::on_trial(600);
        let file = host.settings.state_dir.join("trial.left");
        std::fs::write(&file, nonsense).unwrap();
        assert_eq!((left(&host).times, host.standing(), host.rebooted()), (1, Standing::Bad, true), "{nonsense:?}");
        assert_eq!(Left::load(&host.settings.state_dir).unwrap().unwrap().times, 1, "{nonsense:?}");
        std::fs::write(&file, nonsense).unwrap();
        match host.watch().unwrap() {
            Ended::Stays { why, .. } => assert!(why.contains("how often it was left cannot be read: "), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_slot_that_is_kept_after_it_was_looked_at_is_not_left() {
    let host = Host::on_trial(600);
    let places = Places { state_dir: host.settings.state_dir.clone(), config: host.rig.folder.path().join("config.toml") };
    let task = Task::find(&places, &mut OnceEach::default());
    let looked = task.look().unwrap();
    assert!(matches!(looked, Looked::OnTrial { .. }));
    host.mark_good();
    assert!(matches!(end(task, looked, HASTE).unwrap(), Ended::Kept(trial) if trial.attempt == "one"));
    assert_eq!((host.standing(), host.rebooted()), (Standing::Good, false));
}

#[test]
fn a_slot_that_is_kept_meanwhile_is_not_left_where_its_mark_cannot_be_put_in_order() {
    let host = Host::on_trial(600);
    let dir = host.rig.folder.path();
    let (file, env, copy) = (host.settings.state_dir.join("trial.toml"), dir.join("grubenv"), dir.join("copy"));
    let grub = format!("control = \"grub\"\n[boot.grub]\nenv = {env:?}\ncopy = {copy:?}\n");
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("control = \"gpt\"\n", &grub)).unwrap();
    // A copy that cannot be written.
    std::fs::create_dir(copy).unwrap();
    let says = |variables: &[(&str, &str)]| {
        let mut block = Block::empty();
        variables.iter().for_each(|(name, value)| block.set(name, value));
        std::fs::write(&env, block.to_bytes().unwrap()).unwrap();
    };
    says(&[("ota_primary", "a"), ("ota_pending", "b"), ("ota_left", "2"), ("ota_a", "good")]);
    let places = Places { state_dir: host.settings.state_dir.clone(), config: dir.join("config.toml") };
    let task = Task::find(&places, &mut OnceEach::default());
    let looked = task.look().unwrap();
    assert!(matches!(looked, Looked::OnTrial { .. }));
    says(&[("ota_primary", "b"), ("ota_a", "good"), ("ota_b", "good")]);
    assert!(matches!(end(task, looked, HASTE).unwrap(), Ended::Kept(trial) if trial.attempt == "one"));
    assert!(!host.rebooted());
}

#[test]
fn a_host_that_cannot_be_seen_is_not_touched_and_one_that_cannot_reboot_says_so() {
    let host = Host::on_trial(600);
    let before = host.rig.bytes();
    std::fs::write(host.rig.folder.path().join("proc/cmdline"), "quiet\n").unwrap();
    let error = host.watch().unwrap_err().to_string();
    assert!(error.starts_with("it cannot be seen whether slot b (1.1.0) is on trial:"), "{error}");
    assert!(host.rig.bytes() == before);

    for (command, words) in [(["false"], "`false` ended with exit status: 1"), (["/no/such"], "could not be started")] {
        let host = Host::with_command(600, &command);
        let error = host.watch().unwrap_err().to_string();
        assert!(error.contains("and the host cannot be rebooted") && error.contains(words), "{error}");
        assert_eq!(host.standing(), Standing::Bad);
    }
    std::fs::write(host.rig.folder.path().join("proc/uptime"), "soon\n").unwrap();
    host.rig.boot(1);
    let error = host.watch().unwrap_err().to_string();
    assert!(error.ends_with("expected the seconds since the start of the host, got \"soon\\n\""), "{error}");
}

#[test]
fn an_image_on_trial_that_does_not_see_its_state_is_left_by_its_own_configuration() {
    for obstacle in ["not mounted", "not readable"] {
        let host = Host::without_state(599);
        if obstacle == "not readable" {
            std::fs::write(&host.settings.state_dir, "").unwrap();
        }
        let before = host.rig.bytes();
        std::thread::scope(|threads| {
            let watching = threads.spawn(|| host.watch());
            sleep(Duration::from_millis(100));
            assert!(!watching.is_finished() && host.rig.bytes() == before, "{obstacle}: it did not wait");
            // Twice the usual 300 s: nothing is said in this configuration.
            host.is_up_for(600);
            let ended = watching.join().unwrap().unwrap();
            assert!(matches!(&ended, Ended::Left(left) if left.why.contains("within 600 s")), "{obstacle}: {ended:?}");
        });
        assert_eq!((host.standing(), host.rebooted()), (Standing::Bad, true), "{obstacle}");
        assert!(!host.settings.state_dir.is_dir(), "{obstacle}: something was made where the state is not mounted");
        // Its mark ended the trial: a loader that starts it again is not asked for ever.
        std::fs::remove_file(host.rig.folder.path().join("rebooted")).unwrap();
        assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial, "{obstacle}");
        assert!(!host.rebooted(), "{obstacle}");
    }
}

#[test]
fn without_its_state_it_waits_for_the_marks_of_the_daemon_or_for_a_mount_that_comes_late() {
    let host = Host::without_state(1);
    std::thread::scope(|threads| {
        let watching = threads.spawn(|| host.watch());
        sleep(Duration::from_millis(100));
        assert!(!watching.is_finished());
        host.mark_good();
        assert!(matches!(watching.join().unwrap(), Ok(Ended::Kept(trial)) if trial.attempt == UNKNOWN));
    });
    // What is not on trial by its marks may be so by what was written down.
    for standing in [Standing::Pending { tries_left: 2 }, Standing::Bad] {
        let host = Host::without_state(1);
        if standing == Standing::Bad {
            GptControl::new(&host.rig.disk()).unwrap().mark_bad(&host.rig.running()).unwrap();
        }
        std::thread::scope(|threads| {
            let watching = threads.spawn(|| host.watch());
            sleep(Duration::from_millis(100));
            assert!(!watching.is_finished(), "{standing:?}");
            std::fs::rename(host.unmounted(), &host.settings.state_dir).unwrap();
            sleep(Duration::from_millis(100));
            host.is_up_for(600);
            assert!(matches!(watching.join().unwrap(), Ok(Ended::Left(left)) if left.attempt == "one"), "{standing:?}");
        });
        assert_eq!(Left::load(&host.settings.state_dir).unwrap().unwrap().times, 1);
    }
}

#[test]
fn without_its_state_nothing_is_left_that_is_not_known_to_be_on_trial() {
    let host = Host::without_state(100_000);
    let config = host.rig.folder.path().join("config.toml");
    let (before, text) = (host.rig.bytes(), std::fs::read_to_string(&config).unwrap());
    host.rig.boot(0);
    assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
    host.rig.boot(1);
    std::fs::write(&config, text.replace("partlabel:root-b", "partlabel:nowhere")).unwrap();
    let error = host.watch().unwrap_err().to_string();
    assert!(
        error.starts_with("it cannot be seen whether the running slot is on trial: ") && error.contains("nowhere"),
        "{error}"
    );
    std::fs::write(&config, "sysroot = 1\n").unwrap();
    let error = host.watch().unwrap_err().to_string();
    assert!(error.contains("config.toml:1:11: sysroot: expected a text in quotes, got 1"), "{error}");
    std::fs::write(&config, text).unwrap();
    std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let error = host.watch().unwrap_err().to_string();
    assert!(error.contains("expected nobody but its owner to be able to write it, got mode 0666"), "{error}");
    assert_eq!((host.rig.bytes() == before, host.rebooted()), (true, false));
}

/// A new image that does not mount the ESP, or lacks a tool of its loader.
#[test]
fn an_image_on_trial_whose_boot_state_cannot_be_read_is_left_without_a_mark_as_often_as_the_loader_may_need() {
    for runs_is_known in [true, false] {
        let host = Host::on_trial(599);
        let dir = host.rig.folder.path();
        let file = host.settings.state_dir.join("trial.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let missing = format!("control = \"grub\"\n[boot.grub]\nenv = \"{}/efi/grubenv\"\n", dir.display());
        assert_eq!(text.matches("control = \"gpt\"\n").count(), 1);
        std::fs::write(&file, text.replace("control = \"gpt\"\n", &missing)).unwrap();
        if !runs_is_known {
            std::fs::write(dir.join("proc/cmdline"), "quiet\n").unwrap();
            std::fs::create_dir_all(dir.join("etc")).unwrap();
            std::fs::write(dir.join("etc/os-release"), "IMAGE_VERSION=1.1.0\n").unwrap();
        }
        let before = host.rig.bytes();
        std::thread::scope(|threads| {
            let watching = threads.spawn(|| host.watch());
            sleep(Duration::from_millis(100));
            assert!(!watching.is_finished(), "it did not wait");
            host.is_up_for(600);
            let ended = watching.join().unwrap().unwrap();
            let words = if runs_is_known { "grubenv" } else { "expected" };
            assert!(
                matches!(&ended, Ended::Left(left) if left.times == 1 && left.why.contains("it cannot be seen whether slot b (1.1.0) is on trial: ")),
                "{words}: {ended:?}"
            );
        });
        assert!(host.rig.bytes() == before && host.rebooted());
        for times in 2..=MAX_LEAVES {
            assert_eq!(left(&host).times, times);
        }
        match host.watch().unwrap() {
            Ended::Stays { why, .. } => assert_eq!(
                why,
                "it was left 3 times, and the loader has started it all the same: its tries have not brought slot a back"
            ),
            other => panic!("{other:?}"),
        }
        if runs_is_known {
            host.rig.boot(0);
            assert_eq!(host.watch().unwrap(), Ended::NothingOnTrial);
        } else {
            std::fs::write(dir.join("etc/os-release"), "IMAGE_VERSION=1.0.0\n").unwrap();
            assert!(host.watch().unwrap_err().to_string().starts_with("it cannot be seen whether slot b (1.1.0)"));
        }
    }
}

#[test]
fn design_11_16_what_others_could_have_written_is_not_believed_and_the_image_goes_by_its_own_configuration() {
    for changed in ["state", "state/trial", "state/trial.toml"] {
        let host = Host::on_trial(600);
        let dir = host.rig.folder.path();
        let file = dir.join("state/trial.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches("/rebooted").count(), 1);
        std::fs::write(&file, text.replace("/rebooted", "/theirs")).unwrap();
        let mode = |path: &str, mode| {
            std::fs::set_permissions(dir.join(path), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(changed, 0o777);
        assert_eq!(left(&host).attempt, UNKNOWN, "{changed}");
        assert_eq!((host.standing(), host.rebooted(), dir.join("theirs").exists()), (Standing::Bad, true, false), "{changed}");
        mode(changed, 0o700);
        assert_eq!(left(&host).attempt, "one", "{changed}");
        assert!(dir.join("theirs").exists(), "{changed}");
    }
    // So does the program of its loader.
    let host = Host::on_trial(600);
    let dir = host.rig.folder.path();
    let (file, program) = (host.settings.state_dir.join("trial.toml"), dir.join("program"));
    std::fs::write(&program, format!("#!/bin/sh\ntouch {}/theirs\n", dir.display())).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let custom = format!("control = \"custom\"\n[boot.custom]\nprogram = \"{}\"\n", program.display());
    std::fs::write(&file, text.replace("control = \"gpt\"\n", &custom)).unwrap();
    assert_eq!(left(&host).attempt, "one");
    assert_eq!((host.standing(), dir.join("theirs").exists()), (Standing::Bad, false));
}

#[test]
fn an_image_that_cannot_be_marked_is_left_until_its_loader_has_spent_every_try() {
    let host = Host::on_trial(600);
    let file = host.settings.state_dir.join("trial.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let missing = "control = \"custom\"\n[boot.custom]\nprogram = \"/no/such/program\"\ntries = 5\n";
    assert_eq!(text.matches("control = \"gpt\"\n").count(), 1);
    std::fs::write(&file, text.replace("control = \"gpt\"\n", missing)).unwrap();
    for times in 1..=5 {
        assert_eq!(left(&host).times, times);
    }
    match host.watch().unwrap() {
        Ended::Stays { why, .. } => assert!(why.starts_with("it was left 5 times"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_who_is_known_to_be_on_trial_is_rebooted_by_the_clock_that_asks_no_disk() {
    let find = |host: &Host| {
        let places = Places { state_dir: host.settings.state_dir.clone(), config: host.rig.folder.path().join("config.toml") };
        Task::find(&places, &mut OnceEach::default())
    };
    let deadline = Some(Duration::from_secs(600));
    let written_down = find(&Host::on_trial(1));
    for was_on_trial in [false, true] {
        assert_eq!(written_down.deadline_on(Mode::Host, was_on_trial), deadline);
        assert_eq!(written_down.deadline_on(Mode::Image, was_on_trial), None);
    }
    let own = find(&Host::without_state(1));
    assert!(matches!(own, Task::Own { .. }));
    assert_eq!((own.deadline_on(Mode::Host, false), own.deadline_on(Mode::Host, true)), (None, deadline));
    assert_eq!(own.deadline_on(Mode::Image, true), None);
}

#[test]
fn the_clock_that_asks_no_disk_is_wound_as_soon_as_a_look_has_shown_that_it_is_on_trial() {
    let host = Host::without_state(600);
    let places = Places { state_dir: host.settings.state_dir.clone(), config: host.rig.folder.path().join("config.toml") };
    let mut wound = Vec::new();
    let ended =
        watch_beside(&places, HASTE, |task, was_on_trial| wound.push(task.deadline_on(Mode::Host, was_on_trial))).unwrap();
    assert!(matches!(ended, Ended::Left(_)), "{ended:?}");
    // In the same round: what comes after the look asks the disk as well.
    assert_eq!(wound, [None, Some(Duration::from_secs(600))]);
}

#[test]
fn what_cannot_be_read_any_more_stops_the_clock_only_of_a_host_that_was_not_seen_on_trial() {
    let stuck = Stuck::watch();
    let late = Some(Duration::from_secs(1 << 40));
    stuck.on_trial_until(late);
    let blind = Task::Blind { trial: None, why: "config.toml: not there".to_owned() };
    blind.wind(&stuck, true);
    assert_eq!(stuck.known(), late);
    blind.wind(&stuck, false);
    assert_eq!(stuck.known(), None);
}

/// As long as no mark was written, the flag names the slot that is left.
#[test]
fn a_slot_that_is_left_is_not_asked_for_by_the_reboot_that_leaves_it() {
    let host = Host::with_command(600, &["sh", "-c", "echo '0 tryboot' for $OTA_REBOOT $OTA_SLOT > DIR/rebooted"]);
    let dir = host.rig.folder.path();
    let file = host.settings.state_dir.join("trial.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let missing = format!("control = \"rpi-tryboot\"\n[boot.rpi-tryboot]\nautoboot = \"{}/efi/autoboot.txt\"\n", dir.display());
    assert_eq!(text.matches("control = \"gpt\"\n").count(), 1);
    std::fs::write(&file, text.replace("control = \"gpt\"\n", &missing)).unwrap();
    assert_eq!((left(&host).times, host.standing()), (1, Standing::Pending { tries_left: 3 }), "it was not marked");
    assert_eq!(std::fs::read_to_string(dir.join("rebooted")).unwrap(), "0 for leave b\n");

    // Other loaders know no such argument.
    let host = Host::with_command(600, &["sh", "-c", "echo '0 tryboot' for $OTA_REBOOT $OTA_SLOT > DIR/rebooted"]);
    left(&host);
    let said = std::fs::read_to_string(host.rig.folder.path().join("rebooted")).unwrap();
    assert_eq!((said.as_str(), host.standing()), ("0 tryboot for leave b\n", Standing::Bad));
}

#[test]
fn an_image_that_needs_more_time_than_the_one_that_armed_it_gave_it_has_that_time() {
    let host = Host::on_trial(600);
    let config = host.rig.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("health.deadline_s = 900\n{text}")).unwrap();
    std::thread::scope(|threads| {
        let watching = threads.spawn(|| host.watch());
        sleep(Duration::from_millis(100));
        assert!(!watching.is_finished(), "it did not wait");
        host.is_up_for(1800);
        let ended = watching.join().unwrap().unwrap();
        assert!(matches!(&ended, Ended::Left(left) if left.why.contains("within 1800 s")), "{ended:?}");
    });
    // Less time than was promised is nobody's to give.
    let host = Host::on_trial(599);
    std::fs::write(host.rig.folder.path().join("config.toml"), format!("health.deadline_s = 1\n{text}")).unwrap();
    std::thread::scope(|threads| {
        let watching = threads.spawn(|| host.watch());
        sleep(Duration::from_millis(100));
        assert!(!watching.is_finished(), "it did not wait");
        host.is_up_for(600);
        watching.join().unwrap().unwrap();
    });
}

#[test]
fn a_trial_whose_settings_cannot_be_read_is_kept_by_those_of_the_image() {
    let host = Host::on_trial(600);
    std::fs::remove_file(host.settings.state_dir.join("trial.toml")).unwrap();
    assert_eq!((left(&host).attempt.as_str(), host.standing(), host.rebooted()), ("one", Standing::Bad, true));
}

//! What every loader has to do.

use std::time::Duration;

use integration::vm::{Flaw, Loader};

use crate::scene;

pub(crate) fn two_updates_in_a_row_are_tried_and_kept_and_power_cuts_in_ordinary_boots_change_nothing(loader: Loader) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, Flaw::None);
    drop(scene.boot_into("2.0.0", "b"));
    for cut in 0..5u64 {
        let boot = scene.boot("b");
        // In the kernel, in init, while the daemon starts, while it runs.
        std::thread::sleep(Duration::from_millis(1_500 * cut));
        boot.power_cut();
    }
    let boot = scene.boot_into("2.0.0", "b");
    scene.publish("3.0.0", 3, Flaw::None);
    boot.wait_off();
    let mut boot = scene.boot_into("3.0.0", "a");
    let (_, history) = boot.updatectl("history");
    assert_eq!(history.matches("committed").count(), 2, "{history}");
    boot.order("updatectl --config /state/config.toml rollback");
    boot.wait_off();
    drop(scene.boot_into("2.0.0", "b"));
}

pub(crate) fn an_unhealthy_image_marks_itself_bad_and_the_reason_is_shown_and_reported(loader: Loader) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, Flaw::Unhealthy);
    scene.boot("b").wait_off();
    let mut boot = scene.boot_into("1.0.0", "a");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("2.0.0 rolled back to 1.0.0") && status.contains("the service is down"), "{status}");
    let reports = scene.reports();
    assert!(reports.contains("the service is down"), "{reports}");
}

/// Boots slot b as often as it has tries, and then slot a.
fn goes_back_after_its_tries(loader: Loader, flaw: Flaw) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, flaw);
    for _ in 0..3 {
        scene.boot("b").wait_off();
    }
    let mut boot = scene.boot_into("1.0.0", "a");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("2.0.0 rolled back to 1.0.0: it did not come up"), "{status}");
}

pub(crate) fn an_image_whose_kernel_panics_goes_back_after_its_tries(loader: Loader) {
    goes_back_after_its_tries(loader, Flaw::Panics);
}

pub(crate) fn an_image_without_init_goes_back_after_its_tries(loader: Loader) {
    goes_back_after_its_tries(loader, Flaw::NoInit);
}

pub(crate) fn an_image_that_hangs_is_reset_by_its_watchdog_and_goes_back_after_its_tries(loader: Loader) {
    goes_back_after_its_tries(loader, Flaw::Hangs);
}

pub(crate) fn two_power_cuts_during_the_trial_do_not_roll_a_good_image_back(loader: Loader) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, Flaw::None);
    for _ in 0..2 {
        let boot = scene.boot("b");
        std::thread::sleep(Duration::from_millis(300));
        boot.power_cut();
    }
    drop(scene.boot_into("2.0.0", "b"));
}

pub(crate) fn an_image_without_a_daemon_is_left_when_its_deadline_has_passed(loader: Loader) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, Flaw::NoDaemon);
    let console = scene.boot("b").wait_off();
    assert!(console.contains("marking it bad and rebooting"), "{console}");
    let mut boot = scene.boot_into("1.0.0", "a");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains("2.0.0 rolled back to 1.0.0") && status.contains("update-engine-trial left it"), "{status}");
}

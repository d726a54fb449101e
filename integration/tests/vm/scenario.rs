//! What every loader has to do. Each begins with 1.0.0 in slot a.

use std::time::Duration;

use integration::vm::{Flaw, Loader, Running, Scene, UP, runs};

use crate::scene;

/// 2.0.0 is tried, loses power twice while it is, and is kept; five power cuts in ordinary boots change nothing; 3.0.0 is tried and kept;
/// a person goes back to 2.0.0.
pub(crate) fn good_images_are_kept_through_power_cuts(loader: Loader) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, Flaw::None);
    for moment in [Moment::Kernel, Moment::Init] {
        loses_power(&mut scene, moment);
    }
    drop(scene.boot_into("2.0.0", "b"));
    for moment in [Moment::Loader, Moment::Kernel, Moment::Init, Moment::Daemon, Moment::Rest] {
        loses_power(&mut scene, moment);
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

/// When in a boot of 2.0.0 the power is cut.
#[derive(Clone, Copy)]
enum Moment {
    /// As soon as the slot is chosen.
    Loader,
    /// The kernel runs.
    Kernel,
    /// The first process has everything mounted, and starts the daemon.
    Init,
    /// The daemon answers.
    Daemon,
    /// It has nothing to do.
    Rest,
}

fn loses_power(scene: &mut Scene, moment: Moment) {
    let mut boot = scene.boot("b");
    match moment {
        Moment::Loader => {}
        Moment::Kernel => std::thread::sleep(Duration::from_millis(300)),
        Moment::Init => boot.wait_for(UP),
        Moment::Daemon => drop(boot.wait_status("the daemon answers", |status| status["state"].is_string())),
        Moment::Rest => drop(boot.wait_status("2.0.0 runs from b", runs("2.0.0", "b"))),
    }
    boot.power_cut();
}

/// Unhealthy, then one whose kernel panics; after each of them 1.0.0 runs and says why.
pub(crate) fn bad_images_are_left_and_the_reason_is_shown_and_reported(loader: Loader) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, Flaw::Unhealthy);
    scene.boot("b").wait_off();
    let boot = goes_back(&mut scene, "2.0.0", "the service is down");
    scene.wait_report("the service is down");
    scene.publish("3.0.0", 3, Flaw::Panics);
    boot.wait_off();
    spends_its_tries(&mut scene, "3.0.0");
}

pub(crate) fn an_image_that_hangs_goes_back_after_its_tries(loader: Loader) {
    never_comes_up(loader, Flaw::Hangs);
}

pub(crate) fn an_image_without_init_goes_back_after_its_tries(loader: Loader) {
    never_comes_up(loader, Flaw::NoInit);
}

fn never_comes_up(loader: Loader, flaw: Flaw) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, flaw);
    spends_its_tries(&mut scene, "2.0.0");
}

pub(crate) fn an_image_without_a_daemon_is_left_at_its_deadline(loader: Loader) {
    let Some(mut scene) = scene(loader) else { return };
    scene.update("2.0.0", 2, Flaw::NoDaemon);
    let console = scene.boot("b").wait_off();
    assert!(console.contains("marking it bad and rebooting"), "{console}");
    drop(goes_back(&mut scene, "2.0.0", "update-engine-trial left it"));
}

/// What does not come up in slot b is tried three times.
fn spends_its_tries(scene: &mut Scene, version: &str) {
    for _ in 0..3 {
        scene.boot("b").wait_off();
    }
    drop(goes_back(scene, version, "it did not come up"));
}

/// 1.0.0 runs again, and says why.
pub(crate) fn goes_back(scene: &mut Scene, version: &str, why: &str) -> Running {
    let mut boot = scene.boot_into("1.0.0", "a");
    let (_, status) = boot.updatectl("status");
    assert!(status.contains(&format!("{version} rolled back to 1.0.0")) && status.contains(why), "{status}");
    boot
}

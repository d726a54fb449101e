//! Under systemd-boot, started by UEFI firmware; the state is kept in the names of its entries.

use integration::vm::Loader;

use crate::scenario;

#[test]
fn two_updates_in_a_row_are_tried_and_kept_and_power_cuts_in_ordinary_boots_change_nothing() {
    scenario::two_updates_in_a_row_are_tried_and_kept_and_power_cuts_in_ordinary_boots_change_nothing(Loader::SystemdBoot);
}

#[test]
fn an_unhealthy_image_marks_itself_bad_and_the_reason_is_shown_and_reported() {
    scenario::an_unhealthy_image_marks_itself_bad_and_the_reason_is_shown_and_reported(Loader::SystemdBoot);
}

#[test]
fn an_image_whose_kernel_panics_goes_back_after_its_tries() {
    scenario::an_image_whose_kernel_panics_goes_back_after_its_tries(Loader::SystemdBoot);
}

#[test]
fn an_image_without_init_goes_back_after_its_tries() {
    scenario::an_image_without_init_goes_back_after_its_tries(Loader::SystemdBoot);
}

#[test]
fn an_image_that_hangs_is_reset_by_its_watchdog_and_goes_back_after_its_tries() {
    scenario::an_image_that_hangs_is_reset_by_its_watchdog_and_goes_back_after_its_tries(Loader::SystemdBoot);
}

#[test]
fn two_power_cuts_during_the_trial_do_not_roll_a_good_image_back() {
    scenario::two_power_cuts_during_the_trial_do_not_roll_a_good_image_back(Loader::SystemdBoot);
}

#[test]
fn an_image_without_a_daemon_is_left_when_its_deadline_has_passed() {
    scenario::an_image_without_a_daemon_is_left_when_its_deadline_has_passed(Loader::SystemdBoot);
}

//! Under systemd-boot, started by UEFI firmware; the state is kept in the names of its entries.

use integration::vm::Loader;

use crate::scenario;

#[test]
fn good_images_are_kept_through_power_cuts() {
    scenario::good_images_are_kept_through_power_cuts(Loader::SystemdBoot);
}

#[test]
fn bad_images_are_left_and_the_reason_is_shown_and_reported() {
    scenario::bad_images_are_left_and_the_reason_is_shown_and_reported(Loader::SystemdBoot);
}

#[test]
fn an_image_that_hangs_goes_back_after_its_tries() {
    scenario::an_image_that_hangs_goes_back_after_its_tries(Loader::SystemdBoot);
}

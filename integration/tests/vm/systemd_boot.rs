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

//! Under GRUB, started by a BIOS; the state is kept in its environment block.

use integration::vm::Loader;

use crate::scenario;

#[test]
fn good_images_are_kept_through_power_cuts() {
    scenario::good_images_are_kept_through_power_cuts(Loader::GrubBios);
}

#[test]
fn bad_images_are_left_and_the_reason_is_shown_and_reported() {
    scenario::bad_images_are_left_and_the_reason_is_shown_and_reported(Loader::GrubBios);
}

#[test]
fn an_image_without_a_daemon_is_left_at_its_deadline() {
    scenario::an_image_without_a_daemon_is_left_at_its_deadline(Loader::GrubBios);
}

#[test]
fn an_image_that_hangs_goes_back_after_its_tries() {
    scenario::an_image_that_hangs_goes_back_after_its_tries(Loader::GrubBios);
}

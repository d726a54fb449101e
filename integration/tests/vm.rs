//! Virtual machines with a real kernel, real firmware and a real boot loader: updates that are kept, updates that go back, power cuts.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

#[path = "vm/debian.rs"]
mod debian;
#[path = "vm/grub.rs"]
mod grub;
#[path = "vm/rare/mod.rs"]
mod rare;
#[path = "vm/scenario.rs"]
mod scenario;
#[path = "vm/systemd_boot.rs"]
mod systemd_boot;

use integration::vm::{Loader, Scene};

/// `None` where machines cannot be had, which is said.
fn scene(loader: Loader) -> Option<Scene> {
    Scene::new(loader).map_err(|why| println!("skipped: {why}")).ok()
}

//! Virtual machines with a real kernel, real firmware and a real boot loader: updates that are kept, updates that go back, power cuts.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on has failed")]

#[path = "vm/grub.rs"]
mod grub;
#[path = "vm/scenario.rs"]
mod scenario;
#[path = "vm/scene.rs"]
mod scene;
#[path = "vm/systemd_boot.rs"]
mod systemd_boot;

//! What goes wrong more rarely, or is shown under the other loader already: with `make systems`.

mod grub;
mod systemd_boot;

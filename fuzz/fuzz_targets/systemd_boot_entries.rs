#![no_main]
//! See `fuzz::systemd_boot::entries`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::systemd_boot::entries(data));

#![no_main]
//! See `fuzz::grub::environment`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::grub::environment(data));

#![no_main]
//! See `fuzz::uboot::environment`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::uboot::environment(data));

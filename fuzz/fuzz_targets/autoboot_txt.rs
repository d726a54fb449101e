#![no_main]
//! See `fuzz::autoboot::file`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::autoboot::file(data));

#![no_main]
//! See `fuzz::keys::file`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::keys::file(data));

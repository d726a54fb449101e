#![no_main]
//! See `fuzz::record::file`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::record::file(data));

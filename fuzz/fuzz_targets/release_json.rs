#![no_main]
//! See `fuzz::record::json`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::record::json(data));

#![no_main]
//! See `fuzz::omaha::request`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::omaha::request(data));

#![no_main]
//! See `fuzz::omaha::response`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::omaha::response(data));

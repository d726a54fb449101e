#![no_main]
//! See `fuzz::http::head`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::http::head(data));

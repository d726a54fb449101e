#![no_main]
//! See `fuzz::host::floor`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::host::floor(data));

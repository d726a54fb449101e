#![no_main]
//! See `fuzz::host::facts`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::host::facts(data));

#![no_main]
//! See `fuzz::host::rows`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::host::rows(data));

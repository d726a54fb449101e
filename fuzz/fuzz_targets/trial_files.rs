#![no_main]
//! See `fuzz::trial::files`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::trial::files(data));

#![no_main]
//! See `fuzz::install::hostile`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::install::hostile(data));

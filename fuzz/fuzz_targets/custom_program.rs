#![no_main]
//! See `fuzz::custom::program`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::custom::program(data));

#![no_main]
//! See `fuzz::gpt::table`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::gpt::table(data));

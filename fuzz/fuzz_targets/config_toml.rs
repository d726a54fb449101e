#![no_main]
//! See `fuzz::config::toml`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::config::toml(data));

#![no_main]
//! See `fuzz::payload_file::blob`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::payload_file::blob(data));

#![no_main]
//! See `fuzz::payload_file::decode`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::payload_file::decode(data));

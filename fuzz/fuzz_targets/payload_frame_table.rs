#![no_main]
//! See `fuzz::payload_file::frame_table`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::payload_file::frame_table(data));

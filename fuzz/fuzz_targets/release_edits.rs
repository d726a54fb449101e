#![no_main]
//! See `fuzz::record::edits`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::record::edits(data));

#![no_main]
//! See `fuzz::host::model`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::host::model(data));

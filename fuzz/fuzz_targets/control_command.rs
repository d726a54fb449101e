#![no_main]
//! See `fuzz::host::command`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::host::command(data));

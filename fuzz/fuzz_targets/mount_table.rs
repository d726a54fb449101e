#![no_main]
//! See `fuzz::host::mounts`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::host::mounts(data));

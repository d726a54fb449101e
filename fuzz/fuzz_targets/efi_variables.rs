#![no_main]
//! See `fuzz::efi::variables`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::efi::variables(data));

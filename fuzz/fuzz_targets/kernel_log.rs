#![no_main]
//! See `fuzz::trial::kernel_log`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::trial::kernel_log(data));

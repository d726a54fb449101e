#![no_main]
//! See `fuzz::fleetlock::request`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::fleetlock::request(data));

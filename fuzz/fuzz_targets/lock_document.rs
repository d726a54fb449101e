#![no_main]
//! See `fuzz::fleetlock::document`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::fleetlock::document(data));

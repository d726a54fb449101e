#![no_main]
//! See `fuzz::fleetlock::reply`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::fleetlock::reply(data));

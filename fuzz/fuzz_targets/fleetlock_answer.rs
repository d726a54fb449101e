#![no_main]
//! See `fuzz::fleetlock::answer`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::fleetlock::answer(data));

//! See [`skep_fuzz::route`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::route(bytes));

//! See [`skep_fuzz::patch`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::patch(bytes));

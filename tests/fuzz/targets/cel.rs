//! See [`skep_fuzz::cel`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::cel(bytes));

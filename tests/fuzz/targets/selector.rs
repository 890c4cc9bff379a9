//! See [`skep_fuzz::selector`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::selector(bytes));

//! See [`skep_fuzz::dns_answer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::dns_answer(bytes));

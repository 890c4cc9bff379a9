//! See [`skep_fuzz::dns_settings`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::dns_settings(bytes));

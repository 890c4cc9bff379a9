//! See [`skep_fuzz::tunnel_server`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::tunnel_server(bytes));

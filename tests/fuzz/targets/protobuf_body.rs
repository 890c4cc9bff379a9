//! See [`skep_fuzz::protobuf_body`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_fuzz::protobuf_body(bytes));

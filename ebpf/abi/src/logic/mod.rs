//! The pure decisions of the BPF programs: no packet, map, clock or helper call. The programs run these very functions,
//! and the host tests them.
//!
//! In: values that the programs read. Out: values that they store. Every function is inlined: the verifier then checks
//! it with what is known at the call, and the 512 bytes of stack suffice.

pub mod checksum;
pub mod flow_key;
pub mod gcra;
pub mod hash;
pub mod lifetime;
pub mod openers;
pub mod signal;
pub mod tcp_close;

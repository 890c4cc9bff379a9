//! Packet tables: packet in, verdict and packet out, both families, every protocol that services have.

mod bandwidth;
mod drops;
pub(crate) mod fragments;
pub(crate) mod frame;
mod generation;
mod icmp;
mod lab;
mod lifetime;
mod openers;
mod outside;
mod policy;
mod port_ranges;
mod program_log;
mod reference;
mod robust;
mod service;
mod source;
mod source_ports;
mod table;
mod tcp_close;

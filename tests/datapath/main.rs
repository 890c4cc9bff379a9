//! The datapath in the kernel: real programs, namespaces as pods, nodes and clients.

mod bandwidth;
mod big_tcp;
mod card_sums;
mod cost;
mod dsr;
mod fragments;
mod kernels;
mod link;
mod loopback;
mod namespaces;
mod node;
mod overlay;
mod own_ports;
mod packets;
mod shared_port;
mod truth;
mod uplinks;
mod xdp;

//! `xdp_node`: packets through BPF_PROG_TEST_RUN, what they cost, and packets between namespaces.

mod cost;
mod fixtures;
mod malformed;
mod nodes;
mod packet;
mod uplink;
pub(crate) mod world;

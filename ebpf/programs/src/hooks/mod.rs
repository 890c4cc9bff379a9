//! The kernel's hooks.

mod cgroup_sock;
mod tc_delay;
mod tc_node;
mod tc_pod;
mod xdp_node;

//! The kernel's hooks: one file for each, with the programs that attach there. No module imports them.

mod cgroup_sock;
mod tc_delay;
mod tc_node;
mod tc_pod;
mod xdp_node;

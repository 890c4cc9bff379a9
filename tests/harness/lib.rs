//! What tests share: packets, network namespaces, nodes. Everything made here is unmade on drop.

pub mod api_server;
pub mod bpffs;
pub mod cgroup;
pub mod churn;
pub mod containerd;
pub mod far_end;
pub mod fidelity;
pub mod guest;
pub mod linear;
pub mod netns;
pub mod node;
pub mod pipe;
pub mod random_policies;
pub mod registry;
pub mod server_process;
pub mod stepped_clock;

pub use xtask::image;

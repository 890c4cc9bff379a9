//! Servers that tests of any package start beside themselves, and the addresses that they listen at.

mod address;
mod etcd;

pub use address::free_address;
pub use etcd::Etcd;

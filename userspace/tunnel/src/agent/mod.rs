//! The agent's end: keeps a tunnel to each server, and opens the connections that servers ask for.

mod back_off;
mod keep;
mod serve;
mod upgrade;

use std::net::SocketAddr;

pub use keep::Keeper;
pub use serve::serve;
pub use upgrade::ServerAddress;

/// What a server may reach through this agent. What is not named is refused.
pub trait Reach: Send + Sync {
    /// Whether this is an address of the node or of a pod on it, as the node itself knows it.
    fn permits(&self, address: SocketAddr) -> bool;
}

//! Tunnels: connections that agents keep to API servers, and through which the servers reach kubelets and pods.
//!
//! An agent connects with its client certificate and asks for a protocol switch ([`path`], [`PROTOCOL`]). Then the roles
//! turn: on that connection the API server is the HTTP/2 client and the agent is the HTTP/2 server. Each CONNECT stream
//! (RFC 9113, 8.5) is one TCP connection that the agent opens to an address of its node. Nothing listens for a tunnel, so a
//! node may be behind NAT, and the server needs no route to pods.
//!
//! In, on the server: the upgraded connection of an authorised node. Out: [`Tunnels::dial`], a byte stream to an address.
//! In, on the agent: the servers, and [`Reach`], which says what is the node's. Out: open tunnels for as long as it runs.
//! Absent: authorisation (the API server's), and knowledge of Kubernetes objects.

mod address;
mod agent;
mod counts;
mod http2;
mod keepalive;
mod server;
mod stream;

pub use address::is_dialable;
pub use agent::{Keeper, Reach, ServerAddress, serve};
pub use counts::{AgentCounts, ServerCounts};
pub use keepalive::probe_silence;
pub use server::{DialError, Tunnels};
pub use stream::TunnelStream;

/// The name of the protocol in `Upgrade` headers.
pub const PROTOCOL: &str = "skep-tunnel";
/// The API group whose only resource is [`RESOURCE`]. It is in no discovery document.
pub const GROUP: &str = "tunnel.skep.io";
pub const VERSION: &str = "v1";
/// A node's tunnel has the node's name.
pub const RESOURCE: &str = "tunnels";

/// The path by which a node asks for its tunnel.
pub fn path(node: &str) -> String {
    format!("/apis/{GROUP}/{VERSION}/{RESOURCE}/{node}")
}

//! The way into the cluster for HTTP: one data plane for the APIs that describe routes.
//!
//! [`routing`] is PURE: rules compile to a table that finds a request's route at a cost that does not depend on how many
//! rules there are. [`config`] is what an API is translated to, [`ingress`] translates Ingress v1, and [`Gateway`]
//! puts it in force.

pub mod acme;
pub mod authorities;
pub mod backend_tls;
pub mod certificate;
pub mod client_check;
pub mod config;
pub mod convert;
pub mod counters;
mod crypto;
mod duration;
pub mod filters;
mod forwarded;
pub mod gateway_api;
mod headers;
mod health;
pub mod http_1;
pub mod ingress;
mod limits;

mod outgoing;
pub mod policy;
mod proxy;
pub mod routing;
pub mod staple;

/// The condition of a Node whose gateway listens. A node that has it, in any state, has a gateway.
pub const NODE_CONDITION: &str = "GatewayReady";
/// The annotation of a Node with the ports at which its gateway listens, with commas between them.
pub const NODE_PORTS_ANNOTATION: &str = "skep.io/gateway-ports";

pub use limits::Limits;
pub use proxy::{AccessLog, Bound, Gateway, ListenError};

//! Gateway API to listeners and routes of a [`crate::config::Config`]. PURE. In: the objects of the group, as they change, with Namespaces
//! and what the translator of Ingress knows of Services and Secrets. Out: routing, statuses, and the Services that lead to Gateways.
//!
//! A reference that leads nowhere answers 500 for its part of the requests, and is a condition of its route. Conflicts are decided by
//! age, then by name.

mod acme;
mod attached;
mod authority_refs;
mod backend_tls;
mod backends;
mod client_validation;
mod conditions;
mod definitions;
mod filters;
mod grants;
mod grpc;
mod hosts;
mod http_rules;
pub mod kinds;
mod listeners;
mod named;
mod objects;
mod parents;
mod policies;
mod publish;
mod published;
mod routing;
mod sessions;
mod statuses;
#[cfg(test)]
mod tests;

pub(crate) use authority_refs::Inputs;
pub(crate) use backend_tls::{BackendPolicies, PortTls};
pub(crate) use backends::PortKey;
pub use definitions::{definitions, is_older};
pub use objects::{CONTROLLER, Objects};
pub use publish::{Publication, key_of_value};
pub(crate) use routing::Routing;
pub use statuses::StatusUpdate;

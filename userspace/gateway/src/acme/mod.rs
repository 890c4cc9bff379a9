//! Certificates by ACME (RFC 8555): which ones Ingresses and Gateways ask for, when they are ordered, and what answers the challenges.
//! PURE. In: annotations, Secrets as they are, results of orders, and the time. Out: what to order, what to wait for, what to refuse.

mod challenge;
mod plan;
mod request;
mod stored;
#[cfg(test)]
mod tests;
mod wanted;

pub use challenge::{CHALLENGES, Challenge, Challenges};
pub use plan::{Attempts, Failure, Pace, Step, plan};
pub(crate) use request::Request;
pub use request::{ANNOTATION, CHALLENGE_ANNOTATION, ChallengeKind};
pub use stored::{DIRECTORY_ANNOTATION, Stored};
pub(crate) use wanted::{Asked, Claims};
pub use wanted::{Fault, Owner, Problem, Requests, Wanted};

/// The protocol of a handshake that validates a name (RFC 8737, 6.2).
pub(crate) const ALPN: &[u8] = b"acme-tls/1";

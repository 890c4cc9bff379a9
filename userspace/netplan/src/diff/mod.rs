//! From what the kernel holds to what is wanted, as ordered writes.

pub(crate) mod kernel;
pub(crate) mod maglev;
pub(crate) mod policy;
pub(crate) mod service;
mod shared;

use std::sync::Arc;

use crate::routes::RouteProblem;
use skep_policy::Overflow;

/// What could not be done as the API says, in words for people. The rest is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Policy(#[from] skep_policy::Problem),
    #[error("the last good policies stay in force: {0}")]
    Overflow(#[from] Overflow),
    #[error("service {service}: one of its addresses and ports belongs to service {owner}")]
    FrontendTaken { service: Arc<str>, owner: Arc<str> },
    #[error("service {service}: skep.io/forwarding is dsr or snat: its packets are translated")]
    Forwarding { service: Arc<str> },
    #[error("service {service}: under ClientIP affinity there is no dsr: its packets are translated")]
    DirectAffinity { service: Arc<str> },
    #[error("service {service} does not fit into the maps: what it had before stays")]
    ServicesFull { service: Arc<str> },
    #[error(
        "service {service}: loadBalancerSourceRanges is not supported: its load balancer addresses are closed"
    )]
    SourceRanges { service: Arc<str> },
    #[error("service {service}: its backends' Maglev tables do not fit: more flows move when they change")]
    MaglevFull { service: Arc<str> },
    #[error("{0}")]
    Route(#[from] RouteProblem),
}

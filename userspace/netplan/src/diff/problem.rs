//! What the planner reports to administrators.

use std::sync::Arc;

use skep_policy::{Overflow, PolicyProblem};

use crate::routes::RouteProblem;

/// A part of the API objects that could not be put in force, for administrators. Everything else is in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Policy(#[from] PolicyProblem),
    #[error("the previous policies stay in force: {0}")]
    Overflow(#[from] Overflow),
    #[error("service {service}: one of its addresses and ports is in use by service {owner}")]
    FrontendTaken { service: Arc<str>, owner: Arc<str> },
    #[error("service {service}: skep.io/forwarding must be dsr or snat; snat is used")]
    Forwarding { service: Arc<str> },
    #[error("service {service}: dsr does not work with ClientIP affinity; snat is used")]
    DirectAffinity { service: Arc<str> },
    #[error("service {service} does not fit into the maps; its previous frontends stay in force")]
    ServicesFull { service: Arc<str> },
    #[error(
        "service {service}: the Maglev tables of its backends do not fit into the map; more flows move when backends change"
    )]
    MaglevFull { service: Arc<str> },
    #[error("{0}")]
    Route(#[from] RouteProblem),
}

//! What the planner reports to administrators.

use std::sync::Arc;

use skep_api::kinds::service::PortRangesError;
use skep_policy::{Overflow, PolicyKey, PolicyProblem};

use crate::failure::Unit;
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
    #[error("service {service}: skep.io/ports: {error}; it is ignored")]
    PortRanges { service: Arc<str>, error: PortRangesError },
    #[error("service {service} does not fit into the maps; its previous frontends stay in force")]
    ServicesFull { service: Arc<str> },
    #[error(
        "service {service}: the Maglev tables of its backends do not fit into the map; more flows move when backends change"
    )]
    MaglevFull { service: Arc<str> },
    #[error("{0}")]
    Route(#[from] RouteProblem),
    #[error("{unit}: the kernel refused it, the last state that it took stays in force: {reason}")]
    Refused { unit: Unit, reason: String },
}

/// The object that a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The node that reports.
    ThisNode,
    Node(Arc<str>),
    /// By its key.
    Service(Arc<str>),
    Policy(PolicyKey),
}

impl Problem {
    pub fn subject(&self) -> Subject {
        match self {
            Problem::Policy(problem) => Subject::Policy(problem.policy.clone()),
            Problem::FrontendTaken { service, .. }
            | Problem::Forwarding { service }
            | Problem::DirectAffinity { service }
            | Problem::PortRanges { service, .. }
            | Problem::ServicesFull { service }
            | Problem::MaglevFull { service }
            | Problem::Refused { unit: Unit::Service(service), .. } => Subject::Service(service.clone()),
            Problem::Route(RouteProblem::NoAddress { node, .. } | RouteProblem::Overlap { node, .. }) => {
                Subject::Node(node.clone())
            }
            Problem::Route(RouteProblem::Full { .. }) | Problem::Overflow(_) | Problem::Refused { .. } => {
                Subject::ThisNode
            }
        }
    }

    /// Whether this node alone has the problem. Others are in the object, and every node has them.
    pub fn is_of_node(&self) -> bool {
        match self {
            Problem::Overflow(_)
            | Problem::ServicesFull { .. }
            | Problem::MaglevFull { .. }
            | Problem::Route(_)
            | Problem::Refused { .. } => true,
            Problem::Policy(_)
            | Problem::FrontendTaken { .. }
            | Problem::Forwarding { .. }
            | Problem::DirectAffinity { .. }
            | Problem::PortRanges { .. } => false,
        }
    }

    /// One word for metrics and Events, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Problem::Policy(_) => "InvalidPolicy",
            Problem::Overflow(_) => "PolicyOverflow",
            Problem::FrontendTaken { .. } => "FrontendTaken",
            Problem::Forwarding { .. } => "UnknownForwarding",
            Problem::DirectAffinity { .. } => "AffinityWithoutDSR",
            Problem::PortRanges { .. } => "InvalidPorts",
            Problem::ServicesFull { .. } => "ServicesFull",
            Problem::MaglevFull { .. } => "MaglevFull",
            Problem::Route(RouteProblem::Full { .. }) => "ClusterFull",
            Problem::Route(_) => "NoRoute",
            Problem::Refused { unit: Unit::Route(_), .. } => "NoRoute",
            Problem::Refused { .. } => "WriteFailed",
        }
    }
}

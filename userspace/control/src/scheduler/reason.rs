//! Why a node cannot take a pod, in upstream's words: people and scripts know them. PURE.

use std::fmt;

use super::queue::Cause;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reason {
    Unschedulable,
    Taint,
    NodeAffinity,
    Ports,
    TooManyPods,
    Insufficient(String),
    SpreadLabel,
    Spread,
    PodAffinity,
    PodAntiAffinity,
    GuardedByPods,
}

impl Reason {
    /// What kind of change could help.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Reason::Unschedulable | Reason::Taint | Reason::NodeAffinity | Reason::SpreadLabel => Cause::Node,
            Reason::Ports | Reason::TooManyPods | Reason::Insufficient(_) => Cause::Room,
            Reason::Spread | Reason::PodAffinity | Reason::PodAntiAffinity | Reason::GuardedByPods => {
                Cause::Pods
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Unschedulable => "node(s) were unschedulable",
            Reason::Taint => "node(s) had untolerated taint(s)",
            Reason::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Reason::Ports => "node(s) didn't have free ports for the requested pod ports",
            Reason::TooManyPods => "Too many pods",
            Reason::Insufficient(name) => return write!(f, "Insufficient {name}"),
            Reason::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Reason::Spread => "node(s) didn't match pod topology spread constraints",
            Reason::PodAffinity => "node(s) didn't match pod affinity rules",
            Reason::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Reason::GuardedByPods => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }
}

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
    /// Another pod uses a claim that only one may use.
    ClaimInUse,
    NoVolume,
    VolumeNode,
    VolumeGone,
    VolumeZone,
}

impl Reason {
    /// What kind of change could help.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Reason::Unschedulable | Reason::Taint | Reason::NodeAffinity | Reason::SpreadLabel => Cause::Node,
            Reason::Ports | Reason::TooManyPods | Reason::Insufficient(_) | Reason::ClaimInUse => Cause::Room,
            Reason::NoVolume | Reason::VolumeNode | Reason::VolumeGone | Reason::VolumeZone => Cause::Volumes,
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
            Reason::ClaimInUse => {
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                 another pod"
            }
            Reason::NoVolume => "node(s) didn't find available persistent volumes to bind",
            Reason::VolumeNode => "node(s) didn't match PersistentVolume's node affinity",
            Reason::VolumeGone => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Reason::VolumeZone => "node(s) had no available volume zone",
        })
    }
}

//! One line of the flow log.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// So many lines before the next one are missing: the reader was slower than they came.
    Lost {
        lost: u64,
    },
    Flow(Box<FlowRecord>),
}

/// A flow that opened, or a packet that was dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    pub time: Timestamp,
    /// The node that decided.
    pub node: String,
    pub verdict: Verdict,
    /// Why it was dropped; absent for an allowed flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it was decided: `from-pod`, `to-pod`, `from-network`, `to-network`, `loopback`, `socket`.
    pub direction: String,
    /// By name, or by number as `47`.
    pub protocol: String,
    pub source: End,
    /// After translation to a backend, if there was one.
    pub destination: End,
    /// The pod whose interface the packet passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Pod>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServicePort>,
    /// The route of the gateway that sent it there, as `kind/namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The rule that allowed the flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Policies that isolate the pod, none of whose rules allows the packet, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied_by: Vec<String>,
    /// Of the packet; 0: there was none yet.
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allowed,
    Dropped,
}

/// One end of a packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Absent if the packet's headers could not be read, and for the source of a socket's call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Absent for protocols without ports; of ICMP queries the identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The Node's name, if the address is a node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `namespace/name`.
    pub policy: String,
    /// The rule's field in the policy, as `spec.ingress[0]`.
    pub field: String,
}

impl FlowRecord {
    /// The pods that the record is about.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        [&self.source.pod, &self.destination.pod, &self.interface].into_iter().flatten()
    }
}

//! NetworkPolicy as a small form that cannot be invalid.
//!
//! In: the API's object. Out: [`Policy`] and its [`PolicyProblem`]s. Fails closed: a rule that cannot be understood
//! allows nothing, and a pod selector that cannot be understood isolates the whole namespace.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::{IpNetwork, IpNetworkError};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skep_abi::{Addr, Direction, Proto};

use crate::select::{Labels, Selector};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is wrong in a policy, for its author.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("NetworkPolicy {policy}: {field}: {reason}")]
pub struct PolicyProblem {
    pub policy: PolicyKey,
    pub field: String,
    pub reason: String,
}

/// A direction is `None` if the policy does not isolate in it; an empty list of rules allows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub pods: Selector,
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

/// `None` matches every peer, or every protocol and port; an empty list matches none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub peers: Option<Vec<Peer>>,
    pub ports: Option<Vec<PortMatch>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods of the policy's own namespace.
    Pods {
        namespace: Arc<str>,
        pods: Selector,
    },
    /// Pods of the selected namespaces.
    Namespaces {
        namespaces: Selector,
        pods: Selector,
    },
    Block(IpBlock),
}

/// Networks have no host bits; every exception is inside `cidr`; exceptions are sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    pub cidr: IpNetwork,
    pub except: Vec<IpNetwork>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    pub proto: Proto,
    pub ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    All,
    /// First and last, both included.
    Range(u16, u16),
    /// Resolved by the containers of the pod that receives the packet.
    Named(Box<str>),
}

/// The facts about a pod that policies match. Host-network pods are not endpoints: their address is the node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub namespace: Arc<str>,
    pub labels: Arc<Labels>,
    pub ports: Arc<[NamedPort]>,
    pub addrs: Arc<[Addr]>,
}

/// A pod of this node and its slot, see [`skep_abi::verdicts_index`].
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    pub slot: u32,
    pub endpoint: &'a Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    pub name: Box<str>,
    pub proto: Proto,
    pub port: u16,
}

impl Endpoint {
    /// The first container port of that name and protocol, as for a Service's targetPort.
    pub fn named_port(&self, name: &str, proto: Proto) -> Option<u16> {
        self.ports.iter().find(|p| p.proto == proto && p.name.as_ref() == name).map(|p| p.port)
    }
}

impl Peer {
    /// What the peer selects of the pods in a namespace with these labels, if the namespace is known; an ipBlock matches addresses,
    /// so never a pod as such.
    pub(crate) fn pods_of(&self, namespace: &str, labels: Option<&Labels>) -> Option<&Selector> {
        match self {
            Peer::Pods { namespace: own, pods } => (**own == *namespace).then_some(pods),
            Peer::Namespaces { namespaces, pods } => {
                labels.is_some_and(|labels| namespaces.matches(labels)).then_some(pods)
            }
            Peer::Block(_) => None,
        }
    }
}

impl Policy {
    /// The rules of the directions in which the policy isolates.
    pub fn sides(&self) -> impl Iterator<Item = (Direction, &[Rule])> {
        let sides = [(Direction::INGRESS, &self.ingress), (Direction::EGRESS, &self.egress)];
        sides.into_iter().filter_map(|(direction, rules)| Some((direction, rules.as_deref()?)))
    }

    /// Never fails: an invalid part becomes a problem and allows nothing.
    pub fn parse(key: &PolicyKey, object: &NetworkPolicy) -> (Policy, Vec<PolicyProblem>) {
        let mut parser = Parser { key, problems: Vec::new() };
        let spec = object.spec.as_ref();
        let policy = match spec {
            Some(spec) => parser.policy(spec),
            // The API's defaults: selects every pod and allows no ingress.
            None => Policy { pods: Selector::default(), ingress: Some(Vec::new()), egress: None },
        };
        (policy, parser.problems)
    }

    /// For an object that cannot be decoded. It may select any pod of its namespace and deny it anything, so it isolates all
    /// of them in both directions.
    pub fn unreadable(key: &PolicyKey, error: &str) -> (Policy, PolicyProblem) {
        let policy =
            Policy { pods: Selector::default(), ingress: Some(Vec::new()), egress: Some(Vec::new()) };
        let reason = format!("it cannot be decoded, so all pods of its namespace are isolated: {error}");
        (policy, PolicyProblem { policy: key.clone(), field: "object".to_owned(), reason })
    }
}

struct Parser<'a> {
    key: &'a PolicyKey,
    problems: Vec<PolicyProblem>,
}

impl Parser<'_> {
    fn problem(&mut self, field: &str, reason: impl fmt::Display) {
        let (policy, field) = (self.key.clone(), field.to_owned());
        self.problems.push(PolicyProblem { policy, field, reason: reason.to_string() });
    }

    fn policy(&mut self, spec: &NetworkPolicySpec) -> Policy {
        let (ingress, egress) = self.directions(spec);
        let selector = spec.pod_selector.as_ref().map(Selector::parse).unwrap_or(Ok(Selector::default()));
        let pods = match selector {
            Ok(pods) => pods,
            Err(reason) => {
                self.problem("spec.podSelector", reason);
                let deny = |isolates: bool| isolates.then(Vec::new);
                return Policy { pods: Selector::default(), ingress: deny(ingress), egress: deny(egress) };
            }
        };
        let ingress = ingress.then(|| {
            let rules = spec.ingress.iter().flatten().enumerate();
            rules.map(|(n, rule)| self.rule("ingress", "from", n, &rule.from, &rule.ports)).collect()
        });
        let egress = egress.then(|| {
            let rules = spec.egress.iter().flatten().enumerate();
            rules.map(|(n, rule)| self.rule("egress", "to", n, &rule.to, &rule.ports)).collect()
        });
        Policy { pods, ingress, egress }
    }

    /// Whether the policy isolates (ingress, egress). Without policyTypes: ingress always, egress if it has rules.
    fn directions(&mut self, spec: &NetworkPolicySpec) -> (bool, bool) {
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.is_empty() {
            return (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
        }
        let (mut ingress, mut egress) = (false, false);
        for (n, name) in types.iter().enumerate() {
            match name.as_str() {
                "Ingress" => ingress = true,
                "Egress" => egress = true,
                other => {
                    self.problem(&format!("spec.policyTypes[{n}]"), format!("unknown type {other:?}"));
                    (ingress, egress) = (true, true);
                }
            }
        }
        (ingress, egress)
    }

    fn rule(
        &mut self,
        direction: &str,
        side: &str,
        n: usize,
        peers: &Option<Vec<NetworkPolicyPeer>>,
        ports: &Option<Vec<NetworkPolicyPort>>,
    ) -> Rule {
        let field = |list: &str, m: usize| format!("spec.{direction}[{n}].{list}[{m}]");
        let peers = peers.as_deref().filter(|list| !list.is_empty()).map(|list| {
            let peers = list.iter().enumerate();
            peers.filter_map(|(m, peer)| self.peer(&field(side, m), peer)).collect()
        });
        let ports = ports.as_deref().filter(|list| !list.is_empty()).map(|list| {
            let ports = list.iter().enumerate();
            ports.filter_map(|(m, port)| self.port(&field("ports", m), port)).collect()
        });
        Rule { peers, ports }
    }

    fn peer(&mut self, field: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        let NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        match (ip_block, namespace_selector, pod_selector) {
            (None, None, None) => {
                self.problem(field, "it names no peer");
                None
            }
            (Some(block), None, None) => self.block(&format!("{field}.ipBlock"), block).map(Peer::Block),
            (Some(_), _, _) => {
                self.problem(field, "ipBlock excludes podSelector and namespaceSelector");
                None
            }
            (None, namespaces, pods) => {
                let mut parse = |name: &str, selector: &_| {
                    Selector::parse(selector)
                        .map_err(|reason| self.problem(&format!("{field}.{name}"), reason))
                        .ok()
                };
                let pods = match pods {
                    Some(pods) => parse("podSelector", pods)?,
                    None => Selector::default(),
                };
                Some(match namespaces {
                    Some(namespaces) => {
                        Peer::Namespaces { namespaces: parse("namespaceSelector", namespaces)?, pods }
                    }
                    None => Peer::Pods { namespace: self.key.namespace.clone(), pods },
                })
            }
        }
    }

    fn block(&mut self, field: &str, block: &IPBlock) -> Option<IpBlock> {
        let cidr = match parse_cidr(&block.cidr) {
            Ok(cidr) => cidr,
            Err(reason) => {
                self.problem(&format!("{field}.cidr"), reason);
                return None;
            }
        };
        let mut except = Vec::new();
        for (n, text) in block.except.iter().flatten().enumerate() {
            // Without an exception the block would allow too much, so a bad one drops the whole block.
            let parsed = parse_cidr(text).and_then(|inner| match is_inside(&inner, &cidr) {
                true => Ok(inner),
                false => Err(BadCidr::Outside { inner, outer: cidr }),
            });
            match parsed {
                Ok(inner) => except.push(inner),
                Err(reason) => {
                    self.problem(&format!("{field}.except[{n}]"), reason);
                    return None;
                }
            }
        }
        except.sort();
        except.dedup();
        Some(IpBlock { cidr, except })
    }

    fn port(&mut self, field: &str, port: &NetworkPolicyPort) -> Option<PortMatch> {
        let NetworkPolicyPort { end_port, port, protocol } = port;
        let proto = match protocol.as_deref() {
            None | Some("TCP") => Proto::TCP,
            Some("UDP") => Proto::UDP,
            Some("SCTP") => Proto::SCTP,
            Some(other) => {
                self.problem(&format!("{field}.protocol"), format!("unknown protocol {other:?}"));
                return None;
            }
        };
        let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
        let ports = match (port, end_port) {
            (None, None) => Ok(Ports::All),
            (None, Some(_)) => Err("endPort without a port"),
            (Some(IntOrString::Int(first)), None) => {
                number(*first).map(|n| Ports::Range(n, n)).ok_or("a port is 1 to 65535")
            }
            (Some(IntOrString::Int(first)), Some(last)) => match (number(*first), number(*last)) {
                (Some(first), Some(last)) if first <= last => Ok(Ports::Range(first, last)),
                (Some(_), Some(_)) => Err("endPort is below the port"),
                _ => Err("a port is 1 to 65535"),
            },
            (Some(IntOrString::String(_)), Some(_)) => Err("endPort with a named port"),
            (Some(IntOrString::String(name)), None) if name.is_empty() => Err("the port's name is empty"),
            (Some(IntOrString::String(name)), None) => Ok(Ports::Named(name.as_str().into())),
        };
        match ports {
            Ok(ports) => Some(PortMatch { proto, ports }),
            Err(reason) => {
                self.problem(&format!("{field}.port"), reason);
                None
            }
        }
    }
}

/// Why an ipBlock's network cannot be used.
#[derive(Debug, thiserror::Error)]
enum BadCidr {
    #[error("{text:?} is not a CIDR: it has no prefix length")]
    NoPrefixLength { text: String },
    #[error("{text:?} is not a CIDR: {source}")]
    Syntax { text: String, source: IpNetworkError },
    #[error("{text:?} is an IPv4-mapped network: write it as IPv4")]
    MappedIpv4 { text: String },
    #[error("{inner} is not inside {outer}")]
    Outside { inner: IpNetwork, outer: IpNetwork },
}

/// A network in CIDR form, its host bits cleared as by the API server's parser.
fn parse_cidr(text: &str) -> Result<IpNetwork, BadCidr> {
    let syntax = |source| BadCidr::Syntax { text: text.to_owned(), source };
    if !text.contains('/') {
        return Err(BadCidr::NoPrefixLength { text: text.to_owned() });
    }
    let parsed: IpNetwork = text.parse().map_err(syntax)?;
    // An IPv4-mapped network would be a second name for an IPv4 one.
    if let IpAddr::V6(v6) = parsed.network()
        && parsed.prefix() >= Addr::V4_PREFIX_BITS as u8
        && v6.to_ipv4_mapped().is_some()
    {
        return Err(BadCidr::MappedIpv4 { text: text.to_owned() });
    }
    IpNetwork::new(parsed.network(), parsed.prefix()).map_err(syntax)
}

fn is_inside(inner: &IpNetwork, outer: &IpNetwork) -> bool {
    inner.is_ipv4() == outer.is_ipv4() && inner.prefix() >= outer.prefix() && outer.contains(inner.network())
}

//! How names are answered: values only; [`crate::corefile`] makes them from text.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::hosts::Hosts;
use crate::name::{self, Labels};
use crate::rewrite::Rewrite;

/// TTL of the cluster's records in seconds, as CoreDNS's plugin has it by default.
const TTL: u32 = 5;
/// Bytes of a domain below which every name of a Service and its endpoints fits into a name.
const MAX_DOMAIN_BYTES: usize = 60;

/// All settings of a node's DNS.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    domain: Name,
    domain_labels: Vec<String>,
    /// TTL of the cluster's records in seconds.
    pub ttl: u32,
    pub pod_names: PodNames,
    /// Walk the search list of pods here instead of in their resolver.
    pub search: bool,
    /// Search domains of the node, which its pods have too.
    pub node_searches: Vec<Name>,
    /// In order; the first that matches is used.
    pub rewrites: Vec<Rewrite>,
    pub hosts: Hosts,
    /// Where other zones are asked; the longest zone that matches a name is used.
    pub forwards: Vec<Forward>,
    pub cache: CacheLimits,
    /// Log each question.
    pub log: bool,
}

/// Which names of pods exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodNames {
    /// `1-2-3-4.NAMESPACE.pod` is 1.2.3.4, whether there is such a pod or not.
    #[default]
    Spelled,
    None,
}

/// The upstream servers of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub zone: Name,
    /// Names below the zone that are not sent to these servers.
    pub except: Vec<Name>,
    pub upstreams: Vec<Upstream>,
}

/// An upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    pub addr: SocketAddr,
    pub transport: Transport,
}

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP, and TCP for truncated answers.
    Plain,
    /// TCP only.
    Tcp,
    /// DNS over TLS (RFC 7858). The certificate is verified for the name.
    Tls { name: String },
}

/// Bounds of the cache of upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    pub bytes: usize,
    /// The longest time for answers, and for negative answers, in seconds.
    pub positive_ttl: u32,
    pub negative_ttl: u32,
    /// How long an expired answer is used while upstreams fail (RFC 8767); zero: not at all.
    pub stale: Duration,
    /// Renew an answer that was used this often before it expires; 0: never.
    pub prefetch: u32,
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits {
            bytes: 8 << 20,
            positive_ttl: 3600,
            negative_ttl: 30,
            stale: Duration::from_secs(3600),
            prefetch: 3,
        }
    }
}

/// Why a domain cannot be the cluster's.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a domain of 1 to {MAX_DOMAIN_BYTES} bytes")]
pub struct DomainError(String);

impl Settings {
    /// The defaults for a cluster's domain.
    pub fn new(domain: &str) -> Result<Self, DomainError> {
        let name = name::parse(domain).filter(|name| !name.is_root() && name.len() <= MAX_DOMAIN_BYTES);
        let domain = name.ok_or_else(|| DomainError(domain.to_owned()))?.to_lowercase();
        Ok(Settings {
            domain_labels: Labels::of(&domain).to_strings(),
            domain,
            ttl: TTL,
            pod_names: PodNames::default(),
            search: true,
            node_searches: Vec::new(),
            rewrites: Vec::new(),
            hosts: Hosts::default(),
            forwards: Vec::new(),
            cache: CacheLimits::default(),
            log: false,
        })
    }

    pub fn domain(&self) -> &Name {
        &self.domain
    }

    pub(crate) fn domain_labels(&self) -> &[String] {
        &self.domain_labels
    }

    /// Seconds for which the absence of a cluster's name may be kept: as long as its presence.
    pub(crate) fn negative_ttl(&self) -> u32 {
        self.ttl
    }

    /// The upstreams for a name.
    pub fn forward_for(&self, name: &Name) -> Option<&Forward> {
        let matching = self.forwards.iter().filter(|forward| {
            forward.zone.zone_of(name) && !forward.except.iter().any(|zone| zone.zone_of(name))
        });
        matching.max_by_key(|forward| forward.zone.num_labels())
    }
}

impl Upstream {
    pub fn plain(ip: IpAddr) -> Self {
        Upstream { addr: SocketAddr::new(ip, 53), transport: Transport::Plain }
    }
}

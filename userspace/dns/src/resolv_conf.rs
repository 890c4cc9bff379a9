//! PURE. The node's resolv.conf: its name servers and search domains (resolv.conf(5)).

use std::net::IpAddr;

use hickory_proto::rr::Name;

use crate::name;
use crate::settings::{Forward, Settings, Upstream};

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<IpAddr>,
    pub searches: Vec<Name>,
}

impl ResolvConf {
    /// Lines that are not understood say nothing.
    pub fn parse(text: &str) -> Self {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // An address with a zone (fe80::1%eth0) is of the node's links only.
                Some("nameserver") => {
                    conf.servers.extend(words.next().and_then(|text| text.parse::<IpAddr>().ok()))
                }
                Some("search" | "domain") => conf.searches = words.filter_map(name::parse).collect(),
                _ => {}
            }
        }
        conf.searches.retain(|name| !name.is_root());
        conf
    }

    /// The name servers as upstreams of a zone.
    pub fn forward(&self, zone: Name) -> Forward {
        let upstreams = self.servers.iter().map(|ip| Upstream::plain(*ip)).collect();
        Forward { zone, except: Vec::new(), upstreams }
    }
}

impl Settings {
    /// The defaults on a node with that resolv.conf: other zones are its name servers' to answer.
    pub fn of_node(domain: &str, conf: &ResolvConf) -> Result<Self, crate::settings::DomainError> {
        let mut settings = Settings::new(domain)?;
        settings.node_searches.clone_from(&conf.searches);
        settings.forwards = vec![conf.forward(Name::root())];
        Ok(settings)
    }
}

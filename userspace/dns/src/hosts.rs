//! PURE. Names and addresses that the settings give, as /etc/hosts has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::rr::Name;

/// TTL of such records in seconds, as CoreDNS's.
const TTL: u32 = 3600;

/// Addresses by name in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    by_name: BTreeMap<Name, Vec<IpAddr>>,
    pub ttl: u32,
}

impl Default for Hosts {
    fn default() -> Self {
        Hosts { by_name: BTreeMap::new(), ttl: TTL }
    }
}

impl Hosts {
    pub fn insert(&mut self, name: &Name, ip: IpAddr) {
        self.by_name.entry(name.to_lowercase()).or_default().push(ip);
    }

    /// `None`: the name is none of them.
    pub(crate) fn get(&self, name: &Name) -> Option<&[IpAddr]> {
        if self.by_name.is_empty() {
            return None;
        }
        self.by_name.get(&name.to_lowercase()).map(Vec::as_slice)
    }
}

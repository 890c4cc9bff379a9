//! Names of addresses: cluster IPs, and endpoints with host names. Other addresses are another server's to name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{RData, Record, RecordType};

use super::found::{Asked, Lookup};
use crate::index::split;

pub(super) fn lookup(asked: &Asked, labels: &[&str]) -> Lookup {
    let Some(ip) = address(labels) else { return Lookup::Outside };
    let names = names(asked, &ip);
    if names.is_empty() {
        return Lookup::Outside;
    }
    match asked.kind {
        RecordType::PTR | RecordType::ANY => Lookup::records(names),
        _ => Lookup::Empty,
    }
}

/// The name of the cluster IP's Service, or else those of all endpoints.
fn names(asked: &Asked, ip: &IpAddr) -> Vec<Record> {
    if let Some(key) = asked.index.service_at(ip) {
        let (namespace, name) = split(key);
        return relative(format!("{name}.{namespace}.svc"), asked).into_iter().collect();
    }
    let mut records = Vec::new();
    for slice in asked.index.slices_at(ip) {
        let (namespace, service) = split(&slice.service);
        let named = slice.endpoints.iter().filter(|endpoint| endpoint.ip == *ip && endpoint.ready);
        for hostname in named.filter_map(|endpoint| endpoint.hostname.as_deref()) {
            records.extend(relative(format!("{hostname}.{service}.{namespace}.svc"), asked));
        }
    }
    records.sort_by_key(|record| record.data.to_string());
    records.dedup();
    records
}

fn relative(text: String, asked: &Asked) -> Option<Record> {
    let mut name = crate::name::parse(&text)?;
    name.set_fqdn(false);
    let name = name.append_domain(asked.settings.domain()).ok()?;
    Some(asked.record(RData::PTR(PTR(name))))
}

/// The address that a name below in-addr.arpa or ip6.arpa spells (RFC 1035, 3.5; RFC 3596, 2.5).
fn address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [octets @ .., "in-addr", "arpa"] if octets.len() == 4 => {
            let mut bytes = [0; 4];
            for (byte, octet) in bytes.iter_mut().rev().zip(octets) {
                // `01` is another name than `1`.
                *byte = octet.parse().ok().filter(|byte: &u8| byte.to_string() == **octet)?;
            }
            Some(IpAddr::V4(Ipv4Addr::from(bytes)))
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut value = 0u128;
            for nibble in nibbles.iter().rev() {
                let digit = (nibble.len() == 1).then(|| u128::from_str_radix(nibble, 16).ok())??;
                value = value << 4 | digit;
            }
            Some(IpAddr::V6(Ipv6Addr::from(value)))
        }
        _ => None,
    }
}

//! Address records, and the names of pods.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::found::{Asked, Lookup};
use crate::settings::PodNames;

pub(super) fn record(name: &Name, ip: IpAddr, ttl: u32) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

/// The addresses of the type; for ANY one set of records, IPv4 before IPv6 (RFC 8482, 4.1).
pub(crate) fn records(
    kind: RecordType,
    name: &Name,
    ips: impl Iterator<Item = IpAddr> + Clone,
    ttl: u32,
) -> Lookup {
    let of = |v4: bool| -> Vec<Record> {
        let family = ips.clone().filter(|ip| ip.is_ipv4() == v4);
        family.map(|ip| record(name, ip, ttl)).collect()
    };
    Lookup::records(match kind {
        RecordType::A => of(true),
        RecordType::AAAA => of(false),
        RecordType::ANY => Some(of(true)).filter(|v4| !v4.is_empty()).unwrap_or_else(|| of(false)),
        _ => Vec::new(),
    })
}

/// Those of the addresses that were asked for.
pub(super) fn of(asked: &Asked, ips: &[IpAddr]) -> Lookup {
    records(asked.kind, asked.name, ips.iter().copied(), asked.ttl())
}

/// `1-2-3-4.namespace.pod`: the address that the label spells, as CoreDNS with `pods insecure`.
pub(super) fn of_pod(asked: &Asked, label: &str, namespace: &str) -> Lookup {
    let ip = parse_dashed(label).filter(|_| asked.index.has_namespace(namespace));
    match (ip, asked.settings.pod_names) {
        (Some(ip), PodNames::Spelled) => of(asked, &[ip]),
        _ => Lookup::Absent,
    }
}

fn parse_dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.bytes().filter(|byte| *byte == b'-').count() == 3 && !label.contains("--");
    match v4 {
        true => label.replace('-', ".").parse().ok().map(IpAddr::V4),
        false => label.replace('-', ":").parse().ok().map(IpAddr::V6),
    }
}

//! The records of the cluster's zone, by the Kubernetes DNS specification 1.1.0 and, where that is silent, as CoreDNS.
//!
//! In: a name and a type, the index. Out: a [`Lookup`].

pub(crate) mod address;
mod apex;
mod reverse;
mod service;

use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index::Index;
use crate::name::Labels;
use crate::settings::Settings;

pub(crate) use apex::soa;

/// What the zone has at a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lookup {
    /// Records of the type, and addresses that help to use them.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name is another name.
    Alias { target: Name, ttl: u32 },
    /// The name exists and has no record of the type.
    Empty,
    /// Only names below it exist.
    NonTerminal,
    /// Neither the name nor one below it exists.
    Absent,
    /// The name is in another zone.
    Outside,
}

impl Lookup {
    fn records(answers: Vec<Record>) -> Lookup {
        match answers.is_empty() {
            true => Lookup::Empty,
            false => Lookup::Records { answers, additionals: Vec::new() },
        }
    }
}

/// A look-up in progress.
struct Asked<'a> {
    /// As it was asked, in its case; the owner of the answers.
    name: &'a Name,
    kind: RecordType,
    index: &'a Index,
    settings: &'a Settings,
}

pub(crate) fn lookup(index: &Index, settings: &Settings, name: &Name, kind: RecordType) -> Lookup {
    let labels = Labels::of(name);
    let asked = Asked { name, kind, index, settings };
    match labels.below(settings.domain_labels()) {
        Some(relative) => {
            let relative: Vec<&str> = relative.iter().map(String::as_str).collect();
            asked.in_zone(&relative)
        }
        None => reverse::lookup(&asked, labels.as_slice()),
    }
}

impl Asked<'_> {
    fn in_zone(&self, relative: &[&str]) -> Lookup {
        match relative {
            [] => apex::lookup(self),
            ["dns"] | ["svc"] | ["pod"] => Lookup::NonTerminal,
            ["ns", "dns"] => self.addresses(self.index.dns_addrs()),
            ["dns-version"] => apex::version(self),
            [namespace, "svc" | "pod"] => match self.index.has_namespace(namespace) {
                true => Lookup::NonTerminal,
                false => Lookup::Absent,
            },
            [ip, namespace, "pod"] => address::of_pod(self, ip, namespace),
            [below @ .., service, namespace, "svc"] => service::lookup(self, below, service, namespace),
            _ => Lookup::Absent,
        }
    }

    /// The addresses of the type that was asked for.
    fn addresses(&self, ips: &[std::net::IpAddr]) -> Lookup {
        address::records(self.kind, self.name, ips.iter().copied(), self.ttl())
    }

    fn ttl(&self) -> u32 {
        self.settings.ttl
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.ttl(), data)
    }
}

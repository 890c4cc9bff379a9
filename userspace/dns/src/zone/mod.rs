//! The records of the cluster's zone, by the Kubernetes DNS specification 1.1.0 and, where that is silent, as CoreDNS.
//!
//! In: a name and a type, the index. Out: a [`Lookup`].

mod address;
mod apex;
mod found;

mod reverse;
mod service;

use hickory_proto::rr::{Name, RecordType};

use crate::index::Index;
use crate::name::Labels;
use crate::settings::Settings;

pub(crate) use address::records as addresses;
pub(crate) use apex::soa;
use found::Asked;
pub(crate) use found::Lookup;

pub(crate) fn lookup(index: &Index, settings: &Settings, name: &Name, kind: RecordType) -> Lookup {
    let labels = Labels::of(name);
    let asked = Asked { name, kind, index, settings };
    match labels.below(settings.domain_labels()) {
        Some(relative) => in_zone(&asked, &relative),
        None => reverse::lookup(&asked, &labels.as_strs()),
    }
}

fn in_zone(asked: &Asked, relative: &[&str]) -> Lookup {
    match relative {
        [] => apex::lookup(asked),
        ["dns"] | ["svc"] | ["pod"] => Lookup::NonTerminal,
        ["ns", "dns"] => address::of(asked, asked.index.dns_addrs()),
        ["dns-version"] => apex::version(asked),
        [namespace, "svc" | "pod"] => match asked.index.has_namespace(namespace) {
            true => Lookup::NonTerminal,
            false => Lookup::Absent,
        },
        [ip, namespace, "pod"] => address::of_pod(asked, ip, namespace),
        [below @ .., service, namespace, "svc"] => service::lookup(asked, below, service, namespace),
        _ => Lookup::Absent,
    }
}

//! Services: defaults, what an update keeps, and what must be allocated before a Service is stored.
//!
//! In: a new Service, and the old one for an update. Out: the Service with the fields that follow from others, and
//! [`Wants`]: the addresses and node ports that only the server can allocate. [`finish`] drops fields that the
//! Service's type does not use.

mod columns;
mod family;
mod port_ranges;
mod ports;
mod spec;
mod update;
mod validate;
mod warnings;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::field::Errors;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::names::NameForm;
use crate::value::{items, items_mut, set_default, set_zero_default};

use columns::COLUMNS;
pub use family::{AddressWant, Family};
pub use port_ranges::{PORT_RANGES, PortRanges, PortRangesError};
pub use ports::{PortPlace, PortWant};
use spec::{externally_accessible, is_empty, remove, strings};
use update::validate_update;
use validate::{validate, validate_status};
use warnings::warnings;

pub(super) const ROW: Row = Row {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &["proxy", "status"],
    schema: "api.core.v1.Service",
    selectable_fields: &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
    columns: COLUMNS,
    strategy: Strategy {
        default,
        validate,
        validate_update,
        validate_status,
        warnings: |object, _| warnings(object),
        name: NameForm::Label,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

/// Seconds that a client stays with its endpoint (v1.DefaultClientIPServiceAffinitySeconds).
const AFFINITY_SECONDS: i64 = 10_800;

/// What the server must allocate for a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub addresses: Vec<AddressWant>,
    pub ports: Vec<PortWant>,
}

/// The addresses and ports that are allocated to a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub addresses: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
}

impl Held {
    pub fn of(service: &Value) -> Held {
        let spec = &service["spec"];
        let addresses = strings(spec, "clusterIPs").filter_map(|ip| ip.parse().ok()).collect();
        let mut ports: BTreeSet<u16> =
            items(spec, "ports").filter_map(|port| ports::number(&port["nodePort"])).collect();
        ports.extend(ports::number(&spec["healthCheckNodePort"]));
        Held { addresses, ports }
    }

    /// What is held here and not by `other`.
    pub fn without(&self, other: &Held) -> Held {
        Held {
            addresses: self.addresses.difference(&other.addresses).copied().collect(),
            ports: self.ports.difference(&other.ports).copied().collect(),
        }
    }
}

/// Fills in fields that follow from the Service, the old one and the families of the cluster (the primary first).
/// Returns what is left to allocate.
pub fn plan(service: &mut Value, old: Option<&Value>, cluster: &[Family]) -> Result<Wants, Errors> {
    let old = old.map(|old| &old["spec"]);
    let spec = &mut service["spec"];
    if !spec.is_object() {
        return Ok(Wants::default());
    }
    if let Some(old) = old {
        update::keep_allocated(spec, old);
    }
    update::join_cluster_ips(spec, old);
    let mut errors = Errors::default();
    family::settle(spec, old, cluster, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Wants { addresses: family::wants(spec, old), ports: ports::wants(spec, old) })
}

/// Drops fields that the new type of the Service does not use, unless the user changed them in the same update.
pub fn finish(service: &mut Value, old: &Value) {
    update::drop_of_type(service, old);
}

/// Writes an allocated address; a requested one is already there.
pub fn give_address(service: &mut Value, want: &AddressWant, ip: IpAddr) {
    if want.asked.is_some() {
        return;
    }
    let spec = &mut service["spec"];
    let mut all: Vec<String> = strings(spec, "clusterIPs").map(str::to_owned).collect();
    if all.len() <= want.index {
        all.resize(want.index + 1, String::new());
    }
    all[want.index] = ip.to_string();
    if want.index == 0 {
        spec["clusterIP"] = ip.to_string().into();
    }
    spec["clusterIPs"] = json!(all);
}

/// Writes an allocated node port.
pub fn give_port(service: &mut Value, want: &PortWant, number: u16) {
    for place in &want.places {
        match place {
            PortPlace::Port(index) => service["spec"]["ports"][*index]["nodePort"] = number.into(),
            PortPlace::HealthCheck => service["spec"]["healthCheckNodePort"] = number.into(),
        }
    }
}

fn default(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_zero_default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        remove(spec, "sessionAffinityConfig");
    }
    if spec["sessionAffinity"] == "ClientIP"
        && spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null()
    {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
    }
    set_zero_default(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        set_zero_default(port, "protocol", "TCP");
        if port["targetPort"].is_null() || port["targetPort"] == "" || port["targetPort"] == 0 {
            port["targetPort"] = port["port"].clone();
        }
    }
    if externally_accessible(spec) {
        set_zero_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] != "ExternalName" {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if object.get("status").is_none() {
        object["status"] = json!({"loadBalancer": {}});
    }
    if object["spec"]["type"] == "LoadBalancer" && object["status"]["loadBalancer"].is_object() {
        for ingress in items_mut(&mut object["status"]["loadBalancer"], "ingress") {
            if !is_empty(&ingress["ip"]) {
                set_default(ingress, "ipMode", "VIP");
            }
        }
    }
}

#[cfg(test)]
mod tests;

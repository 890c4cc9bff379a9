//! Node ports of a Service: the requested ones and those to allocate.
//!
//! A number belongs to one Service; two of its ports may share it if they differ in protocol.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::spec::{needs_health_check, needs_node_ports};
use crate::value::items;

/// One number: the requested one, or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortWant {
    pub asked: Option<u16>,
    /// The fields that hold it; errors name the first.
    pub places: Vec<PortPlace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortPlace {
    /// Index in `spec.ports`.
    Port(usize),
    HealthCheck,
}

pub(super) fn number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok().filter(|number| *number != 0)
}

pub(super) fn wants(spec: &Value, old: Option<&Value>) -> Vec<PortWant> {
    let mut wants = match old {
        _ if !needs_node_ports(spec) => Vec::new(),
        None => of_new(spec),
        Some(old) => of_update(spec, old),
    };
    let had = old.is_some_and(needs_health_check);
    if needs_health_check(spec) && !had {
        let asked = number(&spec["healthCheckNodePort"]);
        wants.push(PortWant { asked, places: vec![PortPlace::HealthCheck] });
    }
    wants
}

/// Whether a port without a node port gets one.
fn gives(spec: &Value) -> bool {
    spec["type"] == "NodePort" || spec["allocateLoadBalancerNodePorts"] != false
}

/// Ports with the same number, such as TCP and UDP 53, share one node port.
fn of_new(spec: &Value) -> Vec<PortWant> {
    let mut wants: Vec<PortWant> = Vec::new();
    let mut by_port: BTreeMap<u64, usize> = BTreeMap::new();
    for (i, port) in items(spec, "ports").enumerate() {
        let (own, service_port) = (number(&port["nodePort"]), port["port"].as_u64().unwrap_or(0));
        if own.is_none() && !gives(spec) {
            continue;
        }
        let same = by_port.get(&service_port).copied();
        let asked = own.or_else(|| {
            let alike = items(spec, "ports").filter(|other| other["port"] == port["port"]);
            alike.filter_map(|other| number(&other["nodePort"])).next()
        });
        let joined = match (own, same) {
            (None, Some(want)) => Some(want),
            _ => asked.and_then(|asked| wants.iter().position(|want| want.asked == Some(asked))),
        };
        match joined {
            Some(want) => wants[want].places.push(PortPlace::Port(i)),
            None => {
                wants.push(PortWant { asked, places: vec![PortPlace::Port(i)] });
                by_port.entry(service_port).or_insert(wants.len() - 1);
            }
        }
    }
    wants
}

fn of_update(spec: &Value, old: &Value) -> Vec<PortWant> {
    let mut known: BTreeSet<u16> = items(old, "ports").filter_map(|port| number(&port["nodePort"])).collect();
    let mut wants = Vec::new();
    for (i, port) in items(spec, "ports").enumerate() {
        let asked = number(&port["nodePort"]);
        let new = match asked {
            Some(asked) => known.insert(asked),
            None => gives(spec),
        };
        if new {
            wants.push(PortWant { asked, places: vec![PortPlace::Port(i)] });
        }
    }
    wants
}

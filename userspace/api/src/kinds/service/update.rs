//! What an update of a Service keeps, joins and drops.
//!
//! Many fields of a Service follow from others, and clients send back what they read earlier. So allocated values are
//! restored where they are missing, and fields that the new type does not use are dropped unless the user changed them.

use std::collections::HashSet;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::ports::number;
use super::spec::{
    externally_accessible, is_empty, is_headless, needs_cluster_ip, needs_health_check, needs_node_ports,
    remove, strings,
};
use crate::field::{Errors, Path};
use crate::value::{items, items_mut};

/// Restores allocated values that the client left out.
pub(super) fn keep_allocated(spec: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(spec) {
        if is_empty(&spec["clusterIP"]) && !is_empty(&old["clusterIP"]) {
            spec["clusterIP"] = old["clusterIP"].clone();
        }
        if items(spec, "clusterIPs").next().is_none() && items(old, "clusterIPs").next().is_some() {
            spec["clusterIPs"] = old["clusterIPs"].clone();
        }
    }
    if needs_node_ports(old) && needs_node_ports(spec) {
        keep_node_ports(spec, old);
    }
    if needs_health_check(old) && needs_health_check(spec) && number(&spec["healthCheckNodePort"]).is_none() {
        spec["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
}

/// Restores node ports by the port's name, unless another port has taken the number.
fn keep_node_ports(spec: &mut Value, old: &Value) {
    let used: Vec<u16> = items(spec, "ports").filter_map(|port| number(&port["nodePort"])).collect();
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let before: BTreeMap<String, u16> =
        items(old, "ports").filter_map(|port| Some((name(port), number(&port["nodePort"])?))).collect();
    for port in items_mut(spec, "ports") {
        if number(&port["nodePort"]).is_none()
            && let Some(known) = before.get(&name(port)).filter(|known| !used.contains(known))
        {
            port["nodePort"] = (*known).into();
        }
    }
}

/// Old clients know `clusterIP` only: `clusterIPs` follows it.
pub(super) fn join_cluster_ips(spec: &mut Value, old: Option<&Value>) {
    let one = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let several = items(spec, "clusterIPs").next().is_some();
    let Some(old) = old else {
        if !one.is_empty() && !several {
            spec["clusterIPs"] = json!([one]);
        }
        return;
    };
    let before = old["clusterIP"].as_str().unwrap_or_default();
    if one == before {
        if !several && items(old, "clusterIPs").next().is_some() {
            spec["clusterIPs"] = old["clusterIPs"].clone();
        }
        return;
    }
    if !strings(spec, "clusterIPs").eq(strings(old, "clusterIPs")) {
        return;
    }
    if one.is_empty() {
        remove(spec, "clusterIPs");
    } else {
        spec["clusterIPs"] = json!([one]);
    }
}

/// Drops fields that only some types use.
pub(super) fn drop_of_type(service: &mut Value, old: &Value) {
    let (old, spec) = (&old["spec"], &mut service["spec"]);
    let same = |spec: &Value, field: &str| spec[field] == old[field];
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        if same(spec, "clusterIP") && same(spec, "clusterIPs") {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if same(spec, field) {
                remove(spec, field);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(spec) {
        let known: HashSet<u16> = items(old, "ports").filter_map(|port| number(&port["nodePort"])).collect();
        let new =
            items(spec, "ports").filter_map(|port| number(&port["nodePort"])).any(|n| !known.contains(&n));
        if !new {
            items_mut(spec, "ports").for_each(|port| remove(port, "nodePort"));
        }
    }
    let balanced = |spec: &Value| spec["type"] == "LoadBalancer";
    type Uses = fn(&Value) -> bool;
    let of_type: [(&str, Uses); 4] = [
        ("healthCheckNodePort", needs_health_check),
        ("allocateLoadBalancerNodePorts", balanced),
        ("loadBalancerClass", balanced),
        ("externalTrafficPolicy", externally_accessible),
    ];
    for (field, uses) in of_type {
        if uses(old) && !uses(spec) && same(spec, field) {
            remove(spec, field);
        }
    }
    if !balanced(spec) && service["status"].is_object() {
        service["status"]["loadBalancer"] = json!({});
    }
}

/// The first address and family never change, unless the Service becomes an ExternalName or stops being one.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        let (headless, was) = (is_headless(new), is_headless(old));
        if !(headless && was) {
            validate_lasting("clusterIPs", "clusterIP", new, old, errors);
        }
        if !headless && !was {
            validate_lasting("ipFamilies", "ipFamily", new, old, errors);
        }
    }
    let balanced = new["type"] == "LoadBalancer" && old["type"] == "LoadBalancer";
    if balanced && new["loadBalancerClass"] != old["loadBalancerClass"] {
        errors.invalid(
            &path.child("loadBalancerClass"),
            &new["loadBalancerClass"],
            "may not change once set",
        );
    }
    if needs_health_check(new)
        && needs_health_check(old)
        && new["healthCheckNodePort"] != old["healthCheckNodePort"]
    {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

fn validate_lasting(field: &str, singular: &str, new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child(field);
    let (now, before): (Vec<_>, Vec<_>) = (items(new, field).collect(), items(old, field).collect());
    if now.len() == before.len() {
        for i in (0..now.len()).filter(|i| now[*i] != before[*i]) {
            errors.invalid(&path.index(i), &new[field], "may not change once set");
        }
        return;
    }
    match (now.first(), before.first()) {
        (None, Some(_)) => {
            errors.invalid(&path.index(0), &new[field], &format!("primary {singular} can not be unset"));
        }
        (Some(now), Some(before)) if now != before => {
            errors.invalid(&path.index(0), &new[field], "may not change once set");
        }
        _ => {}
    }
    if now.len() == 1 && before.len() > 1 && new["ipFamilyPolicy"] != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {singular}");
        errors.invalid(&Path::new("spec").child("ipFamilyPolicy"), &new["ipFamilyPolicy"], &detail);
    }
}

//! What a Service must be: upstream's ValidateService, field by field.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::port_ranges::validate_port_ranges;
use super::ports::number;
use super::spec::{
    externally_accessible, is_empty, is_family_policy, is_headless, needs_cluster_ip, needs_health_check,
    strings,
};
use crate::field::{Errors, Path};
use crate::kinds::ip::{parse_cidr, parse_ip, validate_non_special_ip};
use crate::kinds::port::{PROTOCOLS, validate_port, validate_port_number};
use crate::names;
use crate::value::{items, one_of};

/// A day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    one_of(spec, "type", &path, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    if items(spec, "ports").next().is_none() && !is_headless(spec) && needs_cluster_ip(spec) {
        errors.required(&path.child("ports"), "");
    }
    validate_type(spec, &path, errors);
    validate_ports(spec, &path.child("ports"), errors);
    validate_port_ranges(object, errors);
    names::validate_labels(&spec["selector"], &path.child("selector"), errors);
    validate_affinity(spec, &path, errors);
    if needs_cluster_ip(spec) {
        related_fields(spec, errors);
    }
    for (i, ip) in items(spec, "externalIPs").enumerate() {
        let at = path.child("externalIPs").index(i);
        if let Some(ip) = parse_ip(ip, &at, errors) {
            validate_non_special_ip(ip, &at, errors);
        }
    }
    validate_balancer(object, &path, errors);
    validate_external(spec, &path, errors);
    one_of(spec, "internalTrafficPolicy", &path, &["Cluster", "Local"], errors);
    one_of(spec, "trafficDistribution", &path, &["PreferClose", "PreferSameZone", "PreferSameNode"], errors);
}

fn validate_type(spec: &Value, path: &Path, errors: &mut Errors) {
    let kind = spec["type"].as_str().unwrap_or_default();
    if matches!(kind, "LoadBalancer" | "NodePort") && is_headless(spec) {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.invalid(&path.child("clusterIPs").index(0), &json!("None"), &detail);
    }
    if kind != "ExternalName" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let set = items(spec, field).next().is_some() || !is_empty(&spec[field]);
        if set {
            errors.forbidden(&path.child(field), "may not be set for ExternalName services");
        }
    }
    let name = spec["externalName"].as_str().unwrap_or_default();
    let at = path.child("externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required(&at, ""),
        name => names::validate_name(name, names::NameForm::Subdomain, &at, errors),
    }
}

fn validate_ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let several = items(spec, "ports").count() > 1;
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, port) in items(spec, "ports").enumerate() {
        let at = path.index(i);
        validate_service_port(port, several, &mut names, &at, errors);
        if let Some(number) = number(&port["nodePort"]) {
            if spec["type"] == "ClusterIP" {
                errors.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            let key = (&port["protocol"], number);
            if !node_ports.insert(key) {
                errors.duplicate(&at.child("nodePort"), &port["nodePort"]);
            }
        }
        let key = (&port["protocol"], &port["port"]);
        if !numbers.insert(key) {
            let shown = json!({
                "Name": "",
                "Protocol": port["protocol"],
                "AppProtocol": null,
                "Port": port["port"],
                "TargetPort": 0,
                "NodePort": 0,
            });
            errors.duplicate(&at, &shown);
        }
    }
}

fn validate_service_port<'a>(
    port: &'a Value,
    several: bool,
    names: &mut HashSet<&'a str>,
    at: &Path,
    errors: &mut Errors,
) {
    match port["name"].as_str() {
        None | Some("") if several => errors.required(&at.child("name"), ""),
        None | Some("") => {}
        Some(name) => {
            names::validate_name(name, names::NameForm::Label, &at.child("name"), errors);
            if !names.insert(name) {
                errors.duplicate(&at.child("name"), &port["name"]);
            }
        }
    }
    validate_port_number(&port["port"], &at.child("port"), errors);
    one_of(port, "protocol", at, &PROTOCOLS, errors);
    validate_port(&port["targetPort"], &at.child("targetPort"), errors);
    if let Some(name) = port["appProtocol"].as_str() {
        names::validate_name(name, names::NameForm::LabelKey, &at.child("appProtocol"), errors);
    }
}

fn validate_affinity(spec: &Value, path: &Path, errors: &mut Errors) {
    one_of(spec, "sessionAffinity", path, &["ClientIP", "None"], errors);
    let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if spec["sessionAffinity"] == "ClientIP"
        && !seconds.as_i64().is_some_and(|seconds| (1..=MAX_AFFINITY_SECONDS).contains(&seconds))
    {
        errors.invalid(&at, seconds, &format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"));
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` must fit together.
pub(super) fn related_fields(spec: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (ips, all) = (path.child("clusterIPs"), &spec["clusterIPs"]);
    let first = strings(spec, "clusterIPs").next();
    match (is_empty(&spec["clusterIP"]), first) {
        (false, None) => errors.required(&ips, ""),
        (false, Some(first)) if spec["clusterIP"] != first => {
            errors.invalid(&ips, all, "first value must match `clusterIP`");
        }
        (true, Some(_)) => errors.invalid(&ips, all, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let mut seen = Vec::new();
    for (i, family) in items(spec, "ipFamilies").enumerate() {
        let at = path.child("ipFamilies").index(i);
        if family != "IPv4" && family != "IPv6" {
            errors.not_supported(&at, family, &["IPv4", "IPv6"]);
        }
        if seen.contains(&family) {
            errors.duplicate(&at, family);
        }
        seen.push(family);
    }
    if spec["ipFamilyPolicy"].as_str().is_some_and(|policy| !is_family_policy(policy)) {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.not_supported(&path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], &supported);
    }
    let Some(parsed) = cluster_ips(spec, &ips, errors) else { return };
    if let [one, other, ..] = parsed.as_slice()
        && one.is_ipv4() == other.is_ipv4()
    {
        errors.invalid(&ips, all, "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in parsed.iter().zip(strings(spec, "ipFamilies")).enumerate() {
        if (family == "IPv4") == ip.is_ipv6() {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&ips.index(i), &json!(ip.to_string()), &detail);
        }
    }
}

/// The parsed addresses; `None` if one is invalid, so that no error follows from it.
fn cluster_ips(spec: &Value, path: &Path, errors: &mut Errors) -> Option<Vec<IpAddr>> {
    let all = &spec["clusterIPs"];
    if is_headless(spec) {
        return Some(Vec::new());
    }
    let (count, before) = (items(spec, "clusterIPs").count(), errors.0.len());
    if all[0] == "None" {
        errors.invalid(path, all, "'None' must be the first and only value");
    } else {
        let parsed: Vec<Option<IpAddr>> = items(spec, "clusterIPs")
            .enumerate()
            .map(|(i, ip)| parse_ip(ip, &path.index(i), errors))
            .collect();
        if count > 2 {
            errors.invalid(path, all, "may only hold up to 2 values");
        }
        return parsed.into_iter().collect();
    }
    (errors.0.len() == before).then(Vec::new)
}

/// Fields of load balancers; other types must not have them.
fn validate_balancer(object: &Value, path: &Path, errors: &mut Errors) {
    let spec = &object["spec"];
    let balanced = spec["type"] == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    // Upstream names the field with a capital letter.
    let (at, annotation) =
        (path.child("LoadBalancerSourceRanges"), &object["metadata"]["annotations"][SOURCE_RANGES]);
    if items(spec, "loadBalancerSourceRanges").next().is_some() {
        if !balanced {
            errors.forbidden(&at, only);
        }
        for (i, range) in strings(spec, "loadBalancerSourceRanges").enumerate() {
            parse_cidr(range.trim(), &at.index(i), errors);
        }
    } else if let Some(ranges) = annotation.as_str() {
        let at = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !balanced {
            errors.forbidden(&at, only);
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            parse_cidr(range, &at, errors);
        }
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !balanced && !spec[field].is_null() {
            errors.forbidden(&path.child(field), only);
        }
    }
    if let Some(class) = spec["loadBalancerClass"].as_str().filter(|_| balanced) {
        names::validate_name(class, names::NameForm::LabelKey, &path.child("loadBalancerClass"), errors);
    }
}

fn validate_external(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("externalTrafficPolicy");
    match (externally_accessible(spec), is_empty(&spec["externalTrafficPolicy"])) {
        (false, false) => {
            let detail = "may only be set for externally-accessible services";
            errors.invalid(&at, &spec["externalTrafficPolicy"], detail);
        }
        (true, true) => errors.required(&at, ""),
        _ => one_of(spec, "externalTrafficPolicy", path, &["Cluster", "Local"], errors),
    }
    let (at, port) = (path.child("healthCheckNodePort"), &spec["healthCheckNodePort"]);
    let set = port.as_i64().is_some_and(|port| port != 0);
    match (needs_health_check(spec), set) {
        (false, true) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&at, port, detail);
        }
        (true, false) => errors.required(&at, ""),
        _ if set => validate_port_number(port, &at, errors),
        _ => {}
    }
}

/// Checks the status that a load balancer reports.
pub(super) fn validate_status(new: &Value, _: &Value, errors: &mut Errors) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let balancer = &new["status"]["loadBalancer"];
    if new["spec"]["type"] != "LoadBalancer" && items(balancer, "ingress").next().is_some() {
        return errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (i, ingress) in items(balancer, "ingress").enumerate() {
        let at = path.index(i);
        let has_ip = !is_empty(&ingress["ip"]);
        if has_ip {
            parse_ip(&ingress["ip"], &at.child("ip"), errors);
        }
        match (has_ip, ingress["ipMode"].as_str()) {
            (true, None) => errors.required(&at.child("ipMode"), "must be specified when `ip` is set"),
            (false, Some(_)) => {
                errors.forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set")
            }
            _ => one_of(ingress, "ipMode", &at, &["Proxy", "VIP"], errors),
        }
        if let Some(name) = ingress["hostname"].as_str().filter(|name| !name.is_empty()) {
            names::validate_name(name, names::NameForm::Subdomain, &at.child("hostname"), errors);
            if name.parse::<IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errors.invalid(&at.child("hostname"), &ingress["hostname"], detail);
            }
        }
    }
}

//! External IPs of Services: an address in a range that an administrator allows, and that no other part of the cluster has.
//!
//! A Service takes the traffic of its external IPs on every node, for pods and nodes alike: with an address of the API
//! server or of another Service it would take theirs. DenyServiceExternalIPs refuses all.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;
use skep_api::selector::LabelSelector;
use skep_api::{Status, meta};

use super::optional::OptionalPlugin;
use super::request::Request;

pub(super) fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    if !request.is("", "services") {
        return Ok(());
    }
    let known: Vec<IpAddr> = request.old.map(external_ips).unwrap_or_default();
    let new: Vec<IpAddr> = external_ips(object).into_iter().filter(|ip| !known.contains(ip)).collect();
    if new.is_empty() {
        return Ok(());
    }
    if request.admission.runs(OptionalPlugin::DenyServiceExternalIPs) {
        return Err(request.forbidden(object, "Use of external IPs is denied by admission control"));
    }
    let problem = new.iter().find_map(|ip| Some((ip, problem(request, object, *ip)?)));
    problem.map_or(Ok(()), |(ip, why)| Err(request.forbidden(object, format!("external IP {ip} {why}"))))
}

fn external_ips(service: &Value) -> Vec<IpAddr> {
    addresses(service["spec"]["externalIPs"].as_array().into_iter().flatten()).collect()
}

fn addresses<'a>(texts: impl Iterator<Item = &'a Value>) -> impl Iterator<Item = IpAddr> {
    texts.filter_map(|text| Some(text.as_str()?.parse::<IpAddr>().ok()?.to_canonical()))
}

/// Why a Service may not have the address.
fn problem(request: &Request<'_>, service: &Value, ip: IpAddr) -> Option<&'static str> {
    let admission = request.admission;
    if ip == admission.advertise.ip() {
        return Some("is an address of the API server");
    }
    if admission.services.cidrs.iter().any(|cidr| cidr.contains(ip)) {
        return Some("is in the network of Services");
    }
    if request.list("", "v1", "nodes", "").iter().any(|node| is_of_node(&node.value(), ip)) {
        return Some("is an address of a node or of its pods");
    }
    let others = request.list("", "v1", "services", "");
    let mut others = others.iter().map(|other| other.value());
    if others.any(|other| meta::uid(&other) != meta::uid(service) && serves(&other, ip)) {
        return Some("is an address of another Service");
    }
    if is_of_pod(request, ip) {
        return Some("is an address of a pod");
    }
    let in_range = admission.rules.external_ips.iter().any(|range| range.contains(ip));
    (!in_range && !in_pool(request, service, ip)).then_some(
        "is in no range that is allowed; an administrator allows ranges with --service-external-ip-range or a LoadBalancerPool",
    )
}

fn is_of_node(node: &Value, ip: IpAddr) -> bool {
    let listed = node["status"]["addresses"].as_array().into_iter().flatten().map(|each| &each["address"]);
    addresses(listed).any(|own| own == ip)
        || ranges(&node["spec"]["podCIDRs"]).any(|range| range.contains(ip))
}

/// Cluster IPs and addresses of the load balancer. Services may share an external IP, on different ports.
fn serves(service: &Value, ip: IpAddr) -> bool {
    let balanced = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let own = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    addresses(own.chain(balanced.map(|each| &each["ip"]))).any(|own| own == ip)
}

fn is_of_pod(request: &Request<'_>, ip: IpAddr) -> bool {
    let text = format!("\"{ip}\"");
    request.list("", "v1", "pods", "").iter().any(|pod| {
        // A search of the bytes spares the parse of all other pods.
        let bytes = pod.bytes.windows(text.len());
        bytes.into_iter().any(|window| window == text.as_bytes()) && {
            let pod = pod.value();
            addresses(pod["status"]["podIPs"].as_array().into_iter().flatten().map(|each| &each["ip"]))
                .any(|own| own == ip)
        }
    })
}

/// Whether a pool has the address for this Service.
fn in_pool(request: &Request<'_>, service: &Value, ip: IpAddr) -> bool {
    request.list("skep.io", "v1alpha1", "loadbalancerpools", "").iter().any(|pool| {
        let pool = pool.value();
        let selector = &pool["spec"]["serviceSelector"];
        let selects = selector.is_null()
            || LabelSelector::from_object(selector).is_ok_and(|selector| {
                selector.is_some_and(|selector| selector.matches(&service["metadata"]["labels"]))
            });
        selects && ranges(&pool["spec"]["cidrs"]).any(|range| range.contains(ip))
    })
}

fn ranges(list: &Value) -> impl Iterator<Item = IpNetwork> {
    list.as_array().into_iter().flatten().filter_map(|range| range.as_str()?.parse().ok())
}

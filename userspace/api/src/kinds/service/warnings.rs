//! Warnings for the author of a Service: fields without effect, and deprecated ones.

use serde_json::Value;

use super::spec::{is_empty, is_headless, strings};
use crate::field::Path;
use crate::kinds::ip::{address_warning, cidr_warning};
use crate::value::items;

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

pub(super) fn warnings(object: &Value) -> Vec<String> {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let mut warnings = Vec::new();
    if !object["metadata"]["annotations"][TOPOLOGY_HINTS].is_null() {
        let instead = "service.kubernetes.io/topology-mode";
        warnings.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {instead} instead"));
    }
    for field in ["clusterIPs", "externalIPs"] {
        let each = strings(spec, field).enumerate();
        warnings.extend(each.filter_map(|(i, ip)| address_warning(ip, &path.child(field).index(i))));
    }
    warnings.extend(
        spec["loadBalancerIP"].as_str().and_then(|ip| address_warning(ip, &path.child("loadBalancerIP"))),
    );
    for (i, range) in strings(spec, "loadBalancerSourceRanges").enumerate() {
        warnings.extend(cidr_warning(range, &path.child("loadBalancerSourceRanges").index(i)));
    }
    let (external, headless) = (items(spec, "externalIPs").next().is_some(), is_headless(spec));
    if headless {
        let ignored = [
            ("loadBalancerIP", !is_empty(&spec["loadBalancerIP"])),
            ("externalIPs", external),
            ("SessionAffinity", spec["sessionAffinity"] != "None"),
        ];
        let ignored = ignored.iter().filter(|(_, set)| *set);
        warnings.extend(ignored.map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    }
    let named = spec["type"] == "ExternalName";
    if external && named {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    } else if external && !headless {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if !named && !is_empty(&spec["externalName"]) {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    warnings
}

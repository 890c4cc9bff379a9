//! IP families of a Service: how many addresses it has, and of which kind.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::spec::{is_empty, is_headless, needs_cluster_ip, remove, set_strings, strings};
use super::validate::related_fields;
use crate::field::{Errors, Path};
use crate::value::items;

/// One cluster address: the requested one, or any of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressWant {
    /// Index in `spec.clusterIPs`.
    pub index: usize,
    pub family: Family,
    pub asked: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv6() { Family::V6 } else { Family::V4 }
    }

    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn parse(name: &str) -> Option<Family> {
        [Family::V4, Family::V6].into_iter().find(|family| family.name() == name)
    }

    fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

fn families(spec: &Value) -> Vec<Family> {
    strings(spec, "ipFamilies").filter_map(Family::parse).collect()
}

fn set_families(spec: &mut Value, families: &[Family]) {
    let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
    set_strings(spec, "ipFamilies", &names);
}

fn policy(spec: &Value) -> Option<&str> {
    spec["ipFamilyPolicy"].as_str()
}

fn same_list(new: &Value, old: &Value, field: &str) -> bool {
    strings(new, field).eq(strings(old, field))
}

/// Sets the policy and the families that the user left open, from the cluster and the old Service.
pub(super) fn settle(spec: &mut Value, old: Option<&Value>, cluster: &[Family], errors: &mut Errors) {
    if !needs_cluster_ip(spec) || old.is_some_and(|old| stays_prefer_dual(spec, old)) {
        return;
    }
    let selectorless = spec["selector"].as_object().is_none_or(|selector| selector.is_empty());
    let open = spec["clusterIP"] == "None" && selectorless;
    if policy(spec).is_none() {
        let inherited = old.and_then(policy).map(str::to_owned);
        let own = if open { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = inherited.unwrap_or_else(|| own.to_owned()).into();
    }
    related_fields(spec, errors);
    if !errors.is_empty() {
        return;
    }
    if let Some(old) = old {
        follow_reduction(spec, old, errors);
    }
    check_single(spec, errors);
    infer(spec, cluster, errors);
    if !errors.is_empty() {
        return;
    }
    let dual = policy(spec) != Some("SingleStack");
    if !open {
        check_cluster(spec, cluster, errors);
        if !errors.is_empty() {
            return;
        }
    }
    let mut all = families(spec);
    if all.is_empty() {
        all.extend(cluster.first());
    }
    // Without a selector the user manages the endpoints: they may have families that the cluster lacks.
    if let (true, [one]) = (dual && (open || cluster.len() == 2), all.as_slice()) {
        all.push(one.other());
    }
    set_families(spec, &all);
}

/// A change of the cluster's families alone does not add or remove an address of a Service with PreferDualStack.
fn stays_prefer_dual(spec: &Value, old: &Value) -> bool {
    policy(spec) == Some("PreferDualStack")
        && policy(old).is_none_or(|policy| policy == "PreferDualStack")
        && spec["type"] == old["type"]
        && same_list(spec, old, "clusterIPs")
        && same_list(spec, old, "ipFamilies")
}

/// SingleStack drops the second address and family; the other policies refuse to.
fn follow_reduction(spec: &mut Value, old: &Value, errors: &mut Errors) {
    if policy(spec) == Some("SingleStack") {
        for field in ["clusterIPs", "ipFamilies"] {
            if same_list(spec, old, field)
                && let Some(list) = spec[field].as_array_mut()
            {
                list.truncate(1);
            }
        }
        return;
    }
    let path = Path::new("spec").child("ipFamilyPolicy");
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (items(spec, field).count(), items(old, field).count());
        if now != 0 && now < before {
            let detail = format!("must be 'SingleStack' to release the secondary {what}");
            errors.invalid(&path, &spec["ipFamilyPolicy"], &detail);
        }
    }
}

fn check_single(spec: &Value, errors: &mut Errors) {
    if policy(spec) != Some("SingleStack") {
        return;
    }
    let path = Path::new("spec").child("ipFamilyPolicy");
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if items(spec, field).count() == 2 {
            let detail =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.invalid(&path, &spec["ipFamilyPolicy"], &detail);
        }
    }
}

/// Infers families from the given addresses.
fn infer(spec: &mut Value, cluster: &[Family], errors: &mut Errors) {
    let mut known = families(spec);
    let ips = strings(spec, "clusterIPs").map(str::parse::<IpAddr>);
    for (i, ip) in ips.enumerate().skip(known.len()) {
        let Ok(ip) = ip else { break };
        let family = Family::of(ip);
        if cluster.contains(&family) {
            known.push(family);
        } else {
            let path = Path::new("spec").child("clusterIPs").index(i);
            errors.invalid(
                &path,
                &spec["clusterIPs"],
                &format!("{} is not configured on this cluster", family.name()),
            );
        }
    }
    if !known.is_empty() {
        set_families(spec, &known);
    }
}

fn check_cluster(spec: &Value, cluster: &[Family], errors: &mut Errors) {
    let path = Path::new("spec");
    if policy(spec) == Some("RequireDualStack") && cluster.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.invalid(&path.child("ipFamilyPolicy"), &spec["ipFamilyPolicy"], detail);
    }
    for (i, family) in families(spec).into_iter().enumerate() {
        if !cluster.contains(&family) {
            let at = path.child("ipFamilies").index(i);
            errors.invalid(&at, &json!(family.name()), "not configured on this cluster");
        }
    }
}

/// The addresses to allocate for a settled Service.
pub(super) fn wants(spec: &mut Value, old: Option<&Value>) -> Vec<AddressWant> {
    if !needs_cluster_ip(spec) || is_headless(spec) {
        return Vec::new();
    }
    let all: Vec<Option<IpAddr>> = strings(spec, "clusterIPs").map(|ip| ip.parse().ok()).collect();
    let wants = families(spec).into_iter().enumerate();
    let wants =
        wants.map(|(index, family)| AddressWant { index, family, asked: all.get(index).copied().flatten() });
    match old {
        Some(old) if needs_cluster_ip(old) => {
            // The first address never changes; a second family brings a second address.
            let upgraded = !is_headless(old)
                && items(old, "ipFamilies").count() == 1
                && items(spec, "ipFamilies").count() == 2;
            wants.filter(|want| upgraded && want.index == 1).collect()
        }
        _ => {
            if is_empty(&spec["clusterIP"]) {
                remove(spec, "clusterIPs");
            }
            wants.collect()
        }
    }
}

//! Warnings of what a valid pod or template should not have, in upstream's words and order.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::field::Path;
use crate::kinds::container_lists::containers;
use crate::kinds::ip::address_warning;
use crate::kinds::node_labels::{deprecation, warn_of_term};
use crate::kinds::numbers::warn_of_fraction;
use crate::kinds::persistent_volume_claim::spec_warnings;
use crate::kinds::pod_annotations::{APP_ARMOR, SECCOMP_CONTAINER, SECCOMP_POD, app_armor_profile};
use crate::kinds::volume_paths::overlap_warnings;
use crate::value::{is_zero, items, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

const DEPRECATED_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Volumes in the order of upstream's warnings; `shown` is the field as the warning has it.
const DEPRECATED_VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warns of a pod (an empty `path`) or of a template at `path`.
pub(super) fn pod_warnings(holder: &Value, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let (spec, at) = (&holder["spec"], path.child("spec"));
    warn_of_placement(spec, &at, &mut warnings);
    let (annotations, notes) =
        (&holder["metadata"]["annotations"], path.child("metadata").child("annotations"));
    for (key, why) in DEPRECATED_ANNOTATIONS.iter().filter(|(key, _)| annotations[*key].is_string()) {
        warnings.push(format!("{}: {why}", notes.key(key)));
    }
    warn_of_volumes(spec, &at, &mut warnings);
    warn_of_names(spec, &at, &mut warnings);
    warn_of_fractions(&spec["overhead"], &at.child("overhead"), &mut warnings);
    if annotations[SECCOMP_POD].is_string() && spec["securityContext"]["seccompProfile"].is_null() {
        let at = notes.key(SECCOMP_POD);
        warnings.push(format!("{at}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
    }
    let is_template = *path != Path::new("");
    for (container, at) in containers(spec, &at) {
        warn_of_profiles(container, spec, annotations, (&notes, is_template), &mut warnings);
        for name in ["memory", "ephemeral-storage"] {
            for list in ["limits", "requests"] {
                let at = at.child("resources").child(list);
                warn_of_fraction(&container["resources"][list], name, &at, &mut warnings);
            }
        }
        warn_of_variables(container, &at.child("env"), &mut warnings);
    }
    warn_of_ports(spec, &at, &mut warnings);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let at = at.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    warn_of_pod_affinity(&spec["affinity"], &at.child("affinity"), &mut warnings);
    for (i, server) in items(&spec["dnsConfig"], "nameservers").enumerate() {
        let at = at.child("dnsConfig").child("nameservers").index(i);
        warnings.extend(address_warning(text(server), &at));
    }
    for (i, alias) in items(spec, "hostAliases").enumerate() {
        let at = at.child("hostAliases").index(i).child("ip");
        warnings.extend(address_warning(text(&alias["ip"]), &at));
    }
    warnings
}

fn warn_of_placement(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    for key in spec["nodeSelector"].as_object().into_iter().flat_map(Map::keys) {
        if let Some(why) = deprecation(key) {
            warnings.push(format!("{}: {why}", path.child("nodeSelector").key(key)));
        }
    }
    let (affinity, at) = (&spec["affinity"]["nodeAffinity"], path.child("affinity").child("nodeAffinity"));
    for (i, term) in items(&affinity[REQUIRED], "nodeSelectorTerms").enumerate() {
        warn_of_term(term, false, &at.child(REQUIRED).child("nodeSelectorTerms").index(i), warnings);
    }
    for (i, term) in items(affinity, PREFERRED).enumerate() {
        let at = at.child(PREFERRED).index(i).child("preference");
        warn_of_term(&term["preference"], true, &at, warnings);
    }
    for (i, constraint) in items(spec, "topologySpreadConstraints").enumerate() {
        let (at, key) = (path.child("topologySpreadConstraints").index(i), text(&constraint["topologyKey"]));
        if let Some(why) = deprecation(key) {
            warnings.push(format!("{}: {key} is {why}", at.child("topologyKey")));
        }
        if constraint["labelSelector"].is_null() {
            warnings.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
        }
    }
}

fn warn_of_volumes(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (i, volume) in items(spec, "volumes").enumerate() {
        let at = path.child("volumes").index(i);
        for (field, shown, why) in DEPRECATED_VOLUMES {
            if volume[field].is_object() {
                warnings.push(format!("{}: {why}", at.child(shown)));
            }
        }
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        if template.is_object() {
            let at = at.child("ephemeral").child("volumeClaimTemplate").child("spec");
            warnings.extend(spec_warnings(&template["spec"], &at));
        }
    }
    items(spec, "volumes").for_each(|volume| overlap_warnings(volume, warnings));
}

/// Warns of aliases and secrets that occur twice or have no name.
fn warn_of_names(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    for (list, field) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = HashSet::new();
        for (i, item) in items(spec, list).enumerate() {
            let name = text(&item[field]);
            if !seen.insert(name) {
                let at = path.child(list).index(i).child(field);
                warnings.push(format!("{at}: duplicate {field} {name:?}"));
            }
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets").enumerate() {
        if text(&secret["name"]).is_empty() {
            let at = path.child("imagePullSecrets").index(i).child("name");
            warnings.push(format!("{at}: invalid empty name \"\""));
        }
    }
}

fn warn_of_fractions(list: &Value, path: &Path, warnings: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        warn_of_fraction(list, name, path, warnings);
    }
}

fn warn_of_profiles(
    container: &Value,
    spec: &Value,
    annotations: &Value,
    (notes, is_template): (&Path, bool),
    warnings: &mut Vec<String>,
) {
    let (name, context) = (text(&container["name"]), &container["securityContext"]);
    let key = format!("{SECCOMP_CONTAINER}{name}");
    if context["seccompProfile"].is_null() && annotations[&key].is_string() {
        let at = notes.key(&key);
        warnings.push(format!("{at}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
    }
    let key = format!("{APP_ARMOR}{name}");
    if is_template
        && context["appArmorProfile"].is_null()
        && let Some(annotation) = annotations[&key].as_str()
    {
        let of_pod = &spec["securityContext"]["appArmorProfile"];
        if of_pod.is_null() || *of_pod != app_armor_profile(annotation) {
            let at = notes.key(&key);
            warnings.push(format!("{at}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        }
    }
}

/// Warns of a variable that is set again and does not refer to its former value.
fn warn_of_variables(container: &Value, path: &Path, warnings: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (i, variable) in items(container, "env").enumerate() {
        let (name, value) = (text(&variable["name"]), text(&variable["value"]));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if variable["valueFrom"].is_object() || value == reference || !value.contains(&reference) {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.index(i)
            ));
        }
    }
}

fn warn_of_ports(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    let mut all: HashMap<String, Vec<(Path, &Value)>> = HashMap::new();
    let number = |port: &Value, field: &str| port[field].as_i64().unwrap_or_default();
    for (container, at) in containers(spec, path) {
        for (i, port) in items(container, "ports").enumerate() {
            let at = at.child("ports").index(i);
            let (own, host) = (number(port, "containerPort"), number(port, "hostPort"));
            let (protocol, address) = (text(&port["protocol"]), text(&port["hostIP"]));
            if !address.is_empty() && host == 0 {
                let name = text(&port["name"]);
                warnings.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{own} Protocol:{protocol} HostIP:{address}}}"
                ));
            }
            let others = all.entry(format!("{own}/{protocol}")).or_default();
            for (other_at, other) in others.iter() {
                let (other_host, other_address) = (number(other, "hostPort"), text(&other["hostIP"]));
                let what = if address == other_address && host == other_host {
                    "duplicate port definition"
                } else if host == 0 || other_host == 0 {
                    "overlapping port definition"
                } else if host == other_host && address.is_empty() != other_address.is_empty() {
                    "dangerously ambiguous port definition"
                } else {
                    continue;
                };
                warnings.push(format!("{at}: {what} with {other_at}"));
            }
            others.push((at, port));
        }
    }
    let mut names: HashMap<&str, Path> = HashMap::new();
    for (container, at) in containers(spec, path) {
        for (i, port) in items(container, "ports").enumerate().filter(|(_, port)| !is_zero(&port["name"])) {
            let (at, name) = (at.child("ports").index(i), text(&port["name"]));
            match names.get(name) {
                Some(other) => warnings.push(format!(
                    "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                )),
                None => drop(names.insert(name, at)),
            }
        }
    }
}

fn warn_of_pod_affinity(affinity: &Value, path: &Path, warnings: &mut Vec<String>) {
    for field in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (&affinity[field], path.child(field));
        for (i, term) in items(terms, REQUIRED).enumerate() {
            if term["labelSelector"].is_null() {
                let at = at.child(REQUIRED).index(i).child("labelSelector");
                warnings.push(format!("{at}: {NULL_SELECTOR}"));
            }
        }
        for (i, term) in items(terms, PREFERRED).enumerate() {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                let at = at.child(PREFERRED).index(i).child("podAffinityTerm").child("labelSelector");
                warnings.push(format!("{at}: {NULL_SELECTOR}"));
            }
        }
    }
}

/// Warns of a workload's template: of a new one, and of one whose object's specification changed.
pub(super) fn template_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old["metadata"]["generation"] == new["metadata"]["generation"]) {
        return Vec::new();
    }
    pod_warnings(&new["spec"]["template"], &Path::new("spec").child("template"))
}

/// Warns of a name that is part of host names and is no label.
pub(super) fn host_name_warning(object: &Value, used: &str) -> Option<String> {
    let name = text(&object["metadata"]["name"]);
    let problems = crate::names::name_problems(name, crate::names::NameForm::Label);
    (!problems.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        )
    })
}

/// The warnings of a new pod; an update has none.
pub(super) fn new_pod_warnings(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut warnings: Vec<String> = host_name_warning(pod, "the Pod's hostname").into_iter().collect();
    warnings.extend(pod_warnings(pod, &Path::new("")));
    warnings
}

//! Scopes of quotas: the pods and claims that a quota is limited to.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::kinds::qos_class;
use crate::value::items;

/// The scopes of a quota as selectors; plain names become selectors with operator Exists.
pub(super) fn selectors(spec: &Value) -> impl Iterator<Item = Cow<'_, Value>> {
    let named =
        items(spec, "scopes").map(|scope| Cow::Owned(json!({"scopeName": scope, "operator": "Exists"})));
    named.chain(items(&spec["scopeSelector"], "matchExpressions").map(Cow::Borrowed))
}

pub(super) fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

pub(super) fn selects_pod(selector: &Value, pod: &Value) -> bool {
    let best_effort = || qos_class(&pod["spec"]) == "BestEffort";
    match selector["scopeName"].as_str().unwrap_or_default() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().filter(|class| !class.is_empty());
            selects(selector, class.as_slice())
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(&pod["spec"]["affinity"]),
        _ => false,
    }
}

pub(super) fn selects_claim(selector: &Value, claim: &Value) -> bool {
    if selector["scopeName"] != "VolumeAttributesClass" {
        return false;
    }
    let named = [
        &claim["spec"]["volumeAttributesClassName"],
        &claim["status"]["currentVolumeAttributesClassName"],
        &claim["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    let classes: Vec<&str> =
        named.iter().filter_map(|name| name.as_str()).filter(|n| !n.is_empty()).collect();
    selects(selector, &classes)
}

/// Whether the selector's operator holds for one of the object's values in the scope.
fn selects(selector: &Value, values: &[&str]) -> bool {
    let listed = |value: &&str| items(selector, "values").any(|wanted| wanted == *value);
    match selector["operator"].as_str().unwrap_or_default() {
        "Exists" => !values.is_empty(),
        "DoesNotExist" => values.is_empty(),
        "In" => values.iter().any(listed),
        "NotIn" => values.is_empty() || values.iter().any(|value| !listed(value)),
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|form| {
        let form = &affinity[*form];
        let required = items(form, "requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = items(form, "preferredDuringSchedulingIgnoredDuringExecution");
        required
            .chain(preferred.map(|weighted| &weighted["podAffinityTerm"]))
            .any(|term| items(term, "namespaces").next().is_some() || !term["namespaceSelector"].is_null())
    })
}

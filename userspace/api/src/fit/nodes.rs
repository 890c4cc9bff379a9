//! Which nodes a pod may run on, by selector, affinity and taints.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod's node selector and required node affinity select the node, and `nodeName` names it or none.
pub fn admits(pod: &PodSpec, node: &Node) -> bool {
    selects(pod, node)
        && pod.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name(node))
}

/// Whether the pod's node selector and required node affinity select the node.
pub fn selects(pod: &PodSpec, node: &Node) -> bool {
    let selected =
        pod.node_selector.iter().flatten().all(|(key, value)| label(node, key) == Some(value.as_str()));
    let required = pod
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_admits(t, node)))
}

/// One term of an affinity must match; of a term, every requirement. An empty term admits no node.
pub fn term_admits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let some = expressions.is_some_and(|e| !e.is_empty()) || fields.is_some_and(|f| !f.is_empty());
    some && expressions.unwrap_or_default().iter().all(|e| requirement(e, label(node, &e.key)))
        && fields
            .unwrap_or_default()
            .iter()
            .all(|f| f.key == "metadata.name" && requirement(f, Some(name(node))))
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|v| values.iter().any(|x| x == v));
    let compared = |f: fn(i64, i64) -> bool| {
        let limit = values.first().and_then(|v| v.parse().ok());
        matches!((value.and_then(|v| v.parse().ok()), limit), (Some(a), Some(b)) if f(a, b))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|a, b| a > b),
        "Lt" => compared(|a, b| a < b),
        _ => false,
    }
}

/// Whether every taint with one of these effects is tolerated.
pub fn tolerated(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let mut hard = taints.filter(|t| effects.contains(&t.effect.as_str()));
    hard.all(|taint| tolerations.iter().any(|t| tolerates(t, taint)))
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = |v: &Option<String>| v.clone().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => !key.is_empty() && value(&toleration.value) == value(&taint.value),
            "Exists" => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}}}))
            .unwrap()
    }

    fn pod(terms: serde_json::Value) -> PodSpec {
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        serde_json::from_value(json!({"containers": [], "affinity": {"nodeAffinity": required}})).unwrap()
    }

    #[test]
    fn one_term_and_all_its_requirements_must_match() {
        let of = |op: &str, key: &str, values: &[&str]| json!({"key": key, "operator": op, "values": values});
        let both = json!([{"matchExpressions": [of("In", "disk", &["ssd"]), of("Gt", "cores", &["16"])]}]);
        assert!(!admits(&pod(both), &node()));
        let either = json!([
            {"matchExpressions": [of("Gt", "cores", &["16"])]},
            {"matchFields": [of("In", "metadata.name", &["n1"])]},
        ]);
        assert!(admits(&pod(either), &node()));
        assert!(!admits(&pod(json!([{}])), &node()), "an empty term admits no node");
    }
}

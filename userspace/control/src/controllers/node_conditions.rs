//! What the conditions of a node say, and the taints that follow from them. PURE.

use k8s_openapi::api::core::v1::{Node, NodeCondition};

pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    conditions(node).iter().find(|c| c.type_ == kind)
}

pub(super) fn condition_status<'a>(node: &'a Node, kind: &str) -> &'a str {
    condition(node, kind).map_or("", |c| c.status.as_str())
}

/// "True", "False", "Unknown", or "" for a node without the condition.
pub(crate) fn ready_status(node: &Node) -> &str {
    condition_status(node, "Ready")
}

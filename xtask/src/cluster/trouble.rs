//! Why a node takes no pods.

use serde_json::Value;

use super::kubectl::{condition, text};

/// What keeps pods off a node, for an error message; `None` if it is Ready and without taints.
pub(super) fn trouble(node: &Value) -> Option<String> {
    let list = |pointer: &str| {
        node.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    };
    let taints = list("/spec/taints");
    if condition(node, "Ready") && taints.is_empty() {
        return None;
    }
    let taints = taints.iter().map(|taint| format!("{}:{}", text(taint, "/key"), text(taint, "/effect")));
    let taints: Vec<String> = taints.collect();
    let conditions = list("/status/conditions").iter().map(|condition| {
        let field = |name: &str| text(condition, name).to_owned();
        format!("  {}={} ({}: {})", field("/type"), field("/status"), field("/reason"), field("/message"))
    });
    let conditions: Vec<String> = conditions.collect();
    Some(format!("node {}: taints {:?}\n{}", text(node, "/metadata/name"), taints, conditions.join("\n")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_with_a_taint_is_named_with_its_conditions() {
        let node = |taints: Value, ready: &str| {
            json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}, "status": {"conditions": [
                {"type": "DiskPressure", "status": "True", "reason": "KubeletHasDiskPressure", "message": "full"},
                {"type": "Ready", "status": ready, "reason": "KubeletReady", "message": "posts"}]}})
        };
        assert_eq!(trouble(&node(json!([]), "True")), None);
        assert!(trouble(&node(json!([]), "Unknown")).is_some());
        let taint = json!([{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]);
        let text = trouble(&node(taint, "True")).unwrap_or_default();
        for part in ["node n1", "node.kubernetes.io/disk-pressure:NoSchedule", "DiskPressure=True", "full"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

//! The roles and bindings that every cluster has, from a table that reads like prose.

use serde_json::{Value, json};

const TABLE: &str = include_str!("default_roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// ClusterRoles, Roles, ClusterRoleBindings and RoleBindings, as objects to be created. Those that are there already
/// are to be brought to these rules and subjects at each start, unless the annotation
/// `rbac.authorization.kubernetes.io/autoupdate` is `false`.
pub(crate) fn default_objects() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(rule) = line.strip_prefix("  ") {
            if let (Some(role), Some(rule)) = (objects.last_mut(), rule_of(rule))
                && let Some(rules) = role.get_mut("rules").and_then(Value::as_array_mut)
            {
                rules.push(rule);
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        objects.extend(match words.as_slice() {
            ["clusterrole", name, more @ ..] => Some(cluster_role(name, more)),
            ["role", namespace, name] => {
                let mut role = object("Role", name, Some(namespace));
                role["rules"] = json!([]);
                Some(role)
            }
            ["clusterbinding", name, role, subjects @ ..] => {
                Some(binding(object("ClusterRoleBinding", name, None), "ClusterRole", role, subjects))
            }
            ["binding", namespace, name, role, subjects @ ..] => {
                let (kind, role) = role.split_once('/').unwrap_or(("role", role));
                let kind = if kind == "clusterrole" { "ClusterRole" } else { "Role" };
                Some(binding(object("RoleBinding", name, Some(namespace)), kind, role, subjects))
            }
            _ => None,
        });
    }
    objects
}

fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn cluster_role(name: &str, more: &[&str]) -> Value {
    let mut role = object("ClusterRole", name, None);
    role["rules"] = json!([]);
    for word in more {
        match word.split_once('=') {
            Some(("into", into)) => {
                role["metadata"]["labels"][format!("{GROUP}/aggregate-to-{into}")] = json!("true");
            }
            Some(("from", from)) => {
                let label = format!("{GROUP}/aggregate-to-{from}");
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
            }
            _ => {}
        }
    }
    role
}

fn binding(mut binding: Value, kind: &str, role: &str, subjects: &[&str]) -> Value {
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
    let subject = |text: &&str| {
        let parts: Vec<&str> = text.split('/').collect();
        Some(match parts.as_slice() {
            ["user", name] => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
            ["group", name] => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
            ["serviceaccount", namespace, name] => {
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
            }
            _ => return None,
        })
    };
    binding["subjects"] = subjects.iter().filter_map(subject).collect();
    binding
}

fn rule_of(line: &str) -> Option<Value> {
    let columns: Vec<Vec<&str>> = line.split('|').map(|column| column.split_whitespace().collect()).collect();
    let groups =
        |names: &[&str]| -> Vec<String> { names.iter().map(|name| name.replace("core", "")).collect() };
    match columns.as_slice() {
        [first, urls, verbs] if first == &["url"] => Some(json!({"nonResourceURLs": urls, "verbs": verbs})),
        [of, resources, verbs] => {
            Some(json!({"apiGroups": groups(of), "resources": resources, "verbs": verbs}))
        }
        [of, resources, verbs, names] => Some(json!({
            "apiGroups": groups(of), "resources": resources, "verbs": verbs, "resourceNames": names,
        })),
        _ => None,
    }
}

//! The roles and bindings that every cluster has, from a table that reads like prose.

use serde_json::{Value, json};

use super::rbac::{parse_rules, uncovered};

const TABLE: &str = include_str!("default_roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// ClusterRoles, Roles, ClusterRoleBindings and RoleBindings, as objects to be created; see [`reconciled`].
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

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A default role or binding with what it lacks: rules, subjects, labels. `None` if it lacks nothing, or its annotation
/// forbids changes. What an administrator added stays; the rules of an aggregated role are its controller's.
pub(crate) fn reconciled(present: &Value, wanted: &Value) -> Option<Value> {
    if present["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut new = present.clone();
    for map in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
            if present["metadata"][map][key].is_null() {
                new["metadata"][map][key] = value.clone();
            }
        }
    }
    match wanted.get("aggregationRule") {
        Some(rule) if present["aggregationRule"] != *rule => new["aggregationRule"] = rule.clone(),
        Some(_) => {}
        None => {
            let rules = |role: &Value| role.get("rules").map(parse_rules).unwrap_or_default();
            let missing = uncovered(&rules(present), &rules(wanted));
            add(&mut new, "rules", missing.iter().map(|rule| json!(rule)));
        }
    }
    let has = |subject: &&Value| {
        let fields = ["kind", "name", "namespace"];
        let mut all = present["subjects"].as_array().into_iter().flatten();
        all.any(|own| fields.iter().all(|field| own[*field] == subject[*field]))
    };
    let subjects = wanted["subjects"].as_array().into_iter().flatten();
    add(&mut new, "subjects", subjects.filter(|subject| !has(subject)).cloned());
    (new != *present).then_some(new)
}

fn add(object: &mut Value, list: &str, items: impl Iterator<Item = Value>) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return;
    }
    if !object[list].is_array() {
        object[list] = json!([]);
    }
    object[list].as_array_mut().into_iter().for_each(|all| all.extend(items.by_ref()));
}

fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTOUPDATE: "true"},
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

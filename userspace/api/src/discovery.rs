//! Discovery documents: aggregated (`apidiscovery.k8s.io/v2`) and legacy. In: the registry of kinds and the remote versions.
//! Out: JSON documents.

use serde_json::{Value, json};

use crate::aggregate::{Group, Remote, groups};
use crate::kinds::{Kind, Registry};

/// Group, version and kind of the body of a subresource.
fn subresource_kind<'a>(kind: &'a Kind, subresource: &str) -> (&'a str, &'a str, &'a str) {
    match subresource {
        "scale" => ("autoscaling", "v1", "Scale"),
        "eviction" => ("policy", "v1", "Eviction"),
        "binding" => ("", "v1", "Binding"),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest"),
        "exec" => ("", "v1", "PodExecOptions"),
        "attach" => ("", "v1", "PodAttachOptions"),
        "portforward" => ("", "v1", "PodPortForwardOptions"),
        "proxy" if kind.kind == "Node" => ("", "v1", "NodeProxyOptions"),
        "proxy" if kind.kind == "Service" => ("", "v1", "ServiceProxyOptions"),
        "proxy" => ("", "v1", "PodProxyOptions"),
        _ => (&kind.group, &kind.version, &kind.kind),
    }
}

fn subresource_verbs(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "status" | "scale" | "approval" | "ephemeralcontainers" | "resize" => &["get", "patch", "update"],
        "log" => &["get"],
        "exec" | "attach" | "portforward" => &["create", "get"],
        "proxy" => &["create", "delete", "get", "patch", "update"],
        "finalize" => &["update"],
        _ => &["create"],
    }
}

/// The aggregated discovery of `/apis`, or of `/api` with `core`.
pub fn aggregated(registry: &Registry, remotes: &[Remote], core: bool) -> Value {
    let groups = match core {
        true => vec![Group { name: "", versions: vec![("v1", None)] }],
        false => groups(registry, remotes),
    };
    let items: Vec<Value> = groups
        .iter()
        .map(|Group { name, versions }| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(version, remote)| match remote {
                    Some(remote) => json!({
                        "version": version, "resources": remote.resources,
                        "freshness": if remote.current { "Current" } else { "Stale" },
                    }),
                    None => {
                        let resources: Vec<Value> =
                            registry.of(name, version).map(|kind| aggregated_resource(kind)).collect();
                        json!({"version": version, "resources": resources, "freshness": "Current"})
                    }
                })
                .collect();
            let metadata = if name.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let gvk = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": gvk((&kind.group, &kind.version, &kind.kind)),
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|name| {
            json!({
                "subresource": name,
                "responseKind": gvk(subresource_kind(kind, name)),
                "verbs": subresource_verbs(name),
            })
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

/// `/api`.
pub fn core_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// `/apis`.
pub fn group_list(registry: &Registry, remotes: &[Remote]) -> Value {
    let groups: Vec<Value> = groups(registry, remotes).iter().map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`; `None` if there is no such group.
pub fn group(registry: &Registry, remotes: &[Remote], name: &str) -> Option<Value> {
    let mut entry = groups(registry, remotes).iter().find(|group| group.name == name).map(group_entry)?;
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

fn group_entry(group: &Group<'_>) -> Value {
    let Group { name, versions } = group;
    let version = |(version, _): &(&str, Option<&Remote>)| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(version).collect();
    let preferred = all.first().cloned();
    json!({"name": name, "versions": all, "preferredVersion": preferred})
}

/// `/api/v1` and `/apis/<group>/<version>`; `None` if there is no such version.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in registry.of(group, version) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced(),
            "kind": kind.kind, "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        list.push(resource);
        for name in kind.subresources {
            let (group, version, body) = subresource_kind(kind, name);
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced(),
                "kind": body, "verbs": subresource_verbs(name),
            });
            if (group, version) != (&*kind.group, &*kind.version) {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

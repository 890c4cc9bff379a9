//! Aggregated API servers: whether they are reachable, and their part of discovery. PURE.
//!
//! In: APIServices, Services, EndpointSlices, the other servers' own discovery. Out: [`Remote`]s, or [`Unavailable`].

use std::cmp::Reverse;

use serde_json::{Map, Value, json};

use crate::kinds::{Registry, api_service};
use crate::meta;
use crate::value::items;
use crate::version_order::compare_versions;

/// A version of a group that another server serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remote {
    pub group: String,
    pub version: String,
    /// `groupPriorityMinimum` and `versionPriority`.
    pub priorities: (i64, i64),
    /// Its resources in the form of aggregated discovery.
    pub resources: Vec<Value>,
    /// Whether `resources` are up to date.
    pub current: bool,
    /// The path of its OpenAPI v3 document.
    pub openapi: Option<String>,
}

impl Remote {
    /// From an APIService that names a Service; its resources are not known yet.
    pub fn of(api_service: &Value) -> Remote {
        let spec = &api_service["spec"];
        let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| spec[field].as_i64().unwrap_or(0);
        Remote {
            group: text("group"),
            version: text("version"),
            priorities: (number("groupPriorityMinimum"), number("versionPriority")),
            ..Remote::default()
        }
    }
}

/// A group in discovery: its versions, the preferred first, each with the remote server that serves it, if any.
pub(crate) struct Group<'a> {
    pub(crate) name: &'a str,
    pub(crate) versions: Vec<(&'a str, Option<&'a Remote>)>,
}

/// A version of a group and the server that serves it.
struct Served<'a> {
    group: &'a str,
    version: &'a str,
    priorities: (i64, i64),
    /// `None`: this server.
    remote: Option<&'a Remote>,
}

fn served<'a>(registry: &'a Registry, remotes: &'a [Remote]) -> Vec<Served<'a>> {
    let mut served = Vec::new();
    for (group, versions) in registry.groups() {
        let here = |version: &&str| !remotes.iter().any(|r| r.group == group && r.version == *version);
        served.extend(versions.into_iter().filter(here).map(|version| Served {
            group,
            version,
            priorities: api_service::priorities(group, version),
            remote: None,
        }));
    }
    let others = remotes.iter().filter(|remote| !remote.group.is_empty());
    served.extend(others.map(|remote| Served {
        group: &remote.group,
        version: &remote.version,
        priorities: remote.priorities,
        remote: Some(remote),
    }));
    served
}

/// All groups but the core one, in the order of discovery. A remote version hides the local version of the same name.
pub(crate) fn groups<'a>(registry: &'a Registry, remotes: &'a [Remote]) -> Vec<Group<'a>> {
    let mut groups: Vec<(i64, Group<'a>, Vec<i64>)> = Vec::new();
    for Served { group, version, priorities: (of_group, of_version), remote } in served(registry, remotes) {
        let at = groups.iter().position(|(_, known, _)| known.name == group).unwrap_or_else(|| {
            groups.push((of_group, Group { name: group, versions: Vec::new() }, Vec::new()));
            groups.len() - 1
        });
        let (highest, known, order) = &mut groups[at];
        *highest = of_group.max(*highest);
        let comes_after = |(other, priority): (&(&str, Option<&Remote>), &i64)| {
            of_version > *priority
                || of_version == *priority && remote.is_some() && compare_versions(version, other.0).is_lt()
        };
        let position = known.versions.iter().zip(&*order).position(comes_after).unwrap_or(order.len());
        known.versions.insert(position, (version, remote));
        order.insert(position, of_version);
    }
    groups.sort_by_key(|(highest, group, _)| (Reverse(*highest), group.name));
    groups.into_iter().map(|(_, group, _)| group).collect()
}

/// Why an APIService is not available: the reason and message of its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    pub reason: &'static str,
    pub message: String,
}

/// Checks that the Service of an APIService has a ready endpoint; `slices` are that Service's.
pub fn check_reachable(
    api_service: &Value,
    service: Option<&Value>,
    slices: &[Value],
) -> Result<(), Unavailable> {
    let named = &api_service["spec"]["service"];
    let text = |field: &str| named[field].as_str().unwrap_or_default();
    let what = format!("service/{} in \"{}\"", text("name"), text("namespace"));
    let unavailable = |reason: &'static str, message: String| Err(Unavailable { reason, message });
    let Some(service) = service else {
        return unavailable("ServiceNotFound", format!("{what} is not present"));
    };
    if service["spec"]["type"] != "ClusterIP" {
        return Ok(());
    }
    let Some(port) = items(&service["spec"], "ports").find(|port| port["port"] == named["port"]) else {
        return unavailable("ServicePortError", format!("{what} is not listening on port {}", named["port"]));
    };
    if slices.is_empty() {
        return unavailable("EndpointsNotFound", format!("cannot find endpointslices for {what}"));
    }
    let port_name = port["name"].as_str().unwrap_or_default();
    let answers = |slice: &Value| {
        items(slice, "endpoints").any(|endpoint| endpoint["conditions"]["ready"] != false)
            && items(slice, "ports").any(|port| {
                port["name"].as_str().unwrap_or_default() == port_name && port["port"].is_number()
            })
    };
    if slices.iter().any(answers) {
        return Ok(());
    }
    unavailable(
        "MissingEndpoints",
        format!("endpointslices for {what} have no addresses with port name \"{port_name}\""),
    )
}

/// The resources of a version in another server's aggregated discovery; `None` if it lacks the version.
pub fn from_aggregated(document: &Value, group: &str, version: &str) -> Option<Vec<Value>> {
    let of_group = items(document, "items").find(|item| meta::name(item) == group)?;
    let of_version = items(of_group, "versions").find(|item| item["version"] == version)?;
    Some(items(of_version, "resources").cloned().collect())
}

/// The resources of an APIResourceList in the form of aggregated discovery.
pub fn from_legacy(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let or = |value: &Value, other: &str| match value.as_str() {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => other.to_owned(),
    };
    let kind = |entry: &Value| json!({"group": or(&entry["group"], group), "version": or(&entry["version"], version), "kind": entry["kind"]});
    let mut out: Vec<Value> = Vec::new();
    for entry in items(list, "resources") {
        let name = entry["name"].as_str().unwrap_or_default();
        match name.split_once('/') {
            None => {
                let mut resource = json!({
                    "resource": name, "responseKind": kind(entry),
                    "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" },
                    "singularResource": entry["singularName"], "verbs": entry["verbs"],
                });
                for field in ["shortNames", "categories"] {
                    if let Some(value) = entry.get(field) {
                        resource[field] = value.clone();
                    }
                }
                out.push(resource);
            }
            Some((parent, part)) => {
                let of = |resource: &&mut Value| resource["resource"] == parent;
                let Some(resource) = out.iter_mut().find(of).and_then(Value::as_object_mut) else { continue };
                let parts = resource.entry("subresources").or_insert_with(|| json!([]));
                let part = json!({"subresource": part, "responseKind": kind(entry), "verbs": entry["verbs"]});
                parts.as_array_mut().into_iter().for_each(|parts| parts.push(part.clone()));
            }
        }
    }
    out
}

/// The path of a version's document in another server's OpenAPI v3 index; `None` for a URL with a host.
pub fn openapi_of(index: &Value, group: &str, version: &str) -> Option<String> {
    let entry = &index["paths"][format!("apis/{group}/{version}")];
    let url = entry["serverRelativeURL"].as_str()?;
    url.starts_with(&format!("/openapi/v3/apis/{group}/{version}")).then(|| url.to_owned())
}

/// Adds the documents of remote versions to an OpenAPI v3 index.
pub(crate) fn add_to_index(paths: &mut Map<String, Value>, remotes: &[Remote]) {
    for remote in remotes {
        let path = format!("apis/{}/{}", remote.group, remote.version);
        match &remote.openapi {
            Some(url) => drop(paths.insert(path, json!({"serverRelativeURL": url}))),
            None => drop(paths.remove(&path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(group: &str, version: &str, priorities: (i64, i64)) -> Remote {
        Remote { group: group.into(), version: version.into(), priorities, ..Remote::default() }
    }

    fn displayed(remotes: &[Remote]) -> Vec<String> {
        let registry = Registry::with(Vec::new());
        let groups = groups(&registry, remotes);
        let display = |group: &Group<'_>| {
            let versions = group.versions.iter();
            let versions =
                versions.map(|(v, remote)| format!("{v}{}", if remote.is_some() { "*" } else { "" }));
            format!("{} {}", group.name, versions.collect::<Vec<_>>().join(","))
        };
        groups.iter().map(display).collect()
    }

    #[test]
    fn groups_are_ordered_by_priority() {
        let before = displayed(&[]);
        assert_eq!(&before[..2], ["apiregistration.k8s.io v1", "apps v1"]);
        let with = displayed(&[
            remote("metrics.k8s.io", "v1beta1", (100, 100)),
            remote("first.example.com", "v1", (17_790, 10)),
            remote("apps", "v9", (1, 5)),
            remote("apps", "v2", (1, 20)),
            remote("batch", "v1", (1, 1)),
        ]);
        assert_eq!(&with[1..3], ["apps v2*,v1,v9*", "first.example.com v1*"]);
        assert_eq!(with.last().map(String::as_str), Some("batch v1*"));
        assert_eq!(with[with.len() - 2], "metrics.k8s.io v1beta1*");
        // Of these groups, only one has no local version.
        assert_eq!(with.len(), before.len() + 1);
    }

    #[test]
    fn versions_of_equal_priority_are_ordered_by_name() {
        let all = ["v1", "v2beta1", "v2"].map(|version| remote("a.io", version, (5, 5)));
        assert_eq!(displayed(&all).last().map(String::as_str), Some("a.io v2*,v1*,v2beta1*"));
    }

    #[test]
    fn a_service_must_exist_with_the_port_and_a_ready_endpoint() {
        let api = json!({"spec": {"service": {"namespace": "n", "name": "s", "port": 443}}});
        let service =
            |port: i64| json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}});
        let slice = |ready: bool, name: &str| json!({"endpoints": [{"conditions": {"ready": ready}}], "ports": [{"name": name, "port": 1}]});
        let reason = |service: Option<&Value>, slices: &[Value]| {
            check_reachable(&api, service, slices).map_err(|why| why.reason).err().unwrap_or("Passed")
        };
        assert_eq!(reason(None, &[]), "ServiceNotFound");
        assert_eq!(reason(Some(&service(80)), &[]), "ServicePortError");
        assert_eq!(reason(Some(&service(443)), &[]), "EndpointsNotFound");
        assert_eq!(reason(Some(&service(443)), &[slice(false, "https")]), "MissingEndpoints");
        assert_eq!(reason(Some(&service(443)), &[slice(true, "http")]), "MissingEndpoints");
        assert_eq!(reason(Some(&service(443)), &[slice(true, "https")]), "Passed");
        assert_eq!(reason(Some(&json!({"spec": {"type": "ExternalName"}})), &[]), "Passed");
    }

    #[test]
    fn legacy_discovery_converts_to_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"], "shortNames": ["th"]},
            {"name": "things/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
        ]});
        let read = from_legacy(&list, "a.io", "v1");
        assert_eq!(read[0]["responseKind"], json!({"group": "a.io", "version": "v1", "kind": "Thing"}));
        assert_eq!((&read[0]["scope"], &read[0]["shortNames"]), (&json!("Namespaced"), &json!(["th"])));
        assert_eq!(read[0]["subresources"][0]["responseKind"]["group"], "autoscaling");
        let index = json!({"paths": {"apis/a.io/v1": {"serverRelativeURL": "https://evil/x"}}});
        assert_eq!(openapi_of(&index, "a.io", "v1"), None);
    }
}

//! The resources that the server serves now, in every version, and the versions whose discovery failed.
//!
//! A version whose discovery failed is not a version without resources: its objects exist and cannot be reached.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList};
use kube::Client;
use kube::core::discovery::ApiResource;
use kube::core::discovery::v2::{APIGroupDiscovery, APIResourceDiscovery};
use kube::core::gvk::GroupVersion;

/// One resource of the server in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) api: Arc<ApiResource>,
    pub(crate) namespaced: bool,
    verbs: Arc<[String]>,
}

impl Resource {
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }

    /// The path of its objects in a namespace.
    pub(crate) fn path_in(&self, namespace: &str) -> String {
        let (version, plural) = (&self.api.api_version, &self.api.plural);
        let root = if self.api.group.is_empty() { "api" } else { "apis" };
        format!("/{root}/{version}/namespaces/{namespace}/{plural}")
    }

    /// "pods." or "deployments.apps", as upstream spells it in conditions.
    pub(crate) fn title(&self) -> String {
        format!("{}.{}", self.api.plural, self.api.group)
    }
}

/// A version of a group that the server lists but whose resources it cannot tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiscoveryFailure {
    pub(crate) group: String,
    version: String,
    reason: String,
}

/// What one discovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// In every served version; within a group in the server's order of preference.
    all: Vec<Resource>,
    pub(crate) failures: Vec<DiscoveryFailure>,
}

impl Discovered {
    /// Each resource once: in the preferred version of its group, or else in the first version that serves it.
    pub(crate) fn preferred(&self) -> impl Iterator<Item = &Resource> {
        let mut seen = HashSet::new();
        self.all.iter().filter(move |r| seen.insert((&r.api.group, &r.api.plural)))
    }

    /// The resource of a kind in exactly this version.
    pub(crate) fn resolve(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.all.iter().find(|r| r.api.api_version == api_version && r.api.kind == kind)
    }

    /// The resources of a kind, in every version of the group.
    pub(crate) fn of_kind(&self, group: &str, kind: &str) -> impl Iterator<Item = &Resource> {
        self.all.iter().filter(move |r| r.api.group == group && r.api.kind == kind)
    }

    pub(crate) fn has_failed(&self, group: &str) -> bool {
        self.failures.iter().any(|failure| failure.group == group)
    }

    /// Upstream's text about the failures; `None` without any.
    pub(crate) fn failure_message(&self) -> Option<String> {
        if self.failures.is_empty() {
            return None;
        }
        let mut failures: Vec<String> = self
            .failures
            .iter()
            .map(|failure| format!("{}/{}: {}", failure.group, failure.version, failure.reason))
            .collect();
        failures.sort();
        Some(format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            failures.len(),
            failures.join(", ")
        ))
    }

    fn add_group(&mut self, group: APIGroupDiscovery) {
        let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        for version in group.versions {
            let gv = GroupVersion { group: name.clone(), version: version.version.unwrap_or_default() };
            if version.freshness.as_deref() == Some("Stale") {
                self.fail(&gv, format!("stale GroupVersion discovery: {}", gv.api_version()));
                continue;
            }
            self.all.extend(version.resources.into_iter().filter_map(|r| aggregated(&gv, r)));
        }
    }

    fn add_list(&mut self, gv: &GroupVersion, list: kube::Result<APIResourceList>) {
        match list {
            Ok(list) => self.all.extend(legacy(gv, list)),
            Err(error) => self.fail(gv, error.to_string()),
        }
    }

    fn fail(&mut self, gv: &GroupVersion, reason: String) {
        self.failures.push(DiscoveryFailure { group: gv.group.clone(), version: gv.version.clone(), reason });
    }
}

fn api_resource(gv: &GroupVersion, kind: String, plural: String) -> Arc<ApiResource> {
    Arc::new(ApiResource {
        group: gv.group.clone(),
        version: gv.version.clone(),
        api_version: gv.api_version(),
        kind,
        plural,
    })
}

fn aggregated(gv: &GroupVersion, resource: APIResourceDiscovery) -> Option<Resource> {
    let kind = resource.response_kind?.kind.filter(|kind| !kind.is_empty())?;
    Some(Resource {
        api: api_resource(gv, kind, resource.resource?),
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        verbs: resource.verbs.into(),
    })
}

fn legacy(gv: &GroupVersion, list: APIResourceList) -> impl Iterator<Item = Resource> {
    let resources = list.resources.into_iter().filter(|resource| !resource.name.contains('/'));
    resources.map(|resource| Resource {
        api: api_resource(gv, resource.kind, resource.name),
        namespaced: resource.namespaced,
        verbs: resource.verbs.into(),
    })
}

/// Asks the server: two requests if it serves aggregated discovery, else one for each version.
pub(crate) async fn discover(client: &Client) -> kube::Result<Discovered> {
    let mut discovered = Discovered::default();
    // A server without aggregated discovery answers in the older form, which reads as an empty list.
    let groups = client.list_api_groups_aggregated().await.map(|list| list.items).unwrap_or_default();
    if groups.is_empty() {
        return discover_versions(client).await;
    }
    let core = client.list_core_api_versions_aggregated().await?.items;
    core.into_iter().chain(groups).for_each(|group| discovered.add_group(group));
    Ok(discovered)
}

async fn discover_versions(client: &Client) -> kube::Result<Discovered> {
    let mut discovered = Discovered::default();
    for version in client.list_core_api_versions().await?.versions {
        let list = client.list_core_api_resources(&version).await;
        discovered.add_list(&GroupVersion { group: String::new(), version }, list);
    }
    for group in client.list_api_groups().await?.groups {
        for gv in versions(&group) {
            let list = client.list_api_group_resources(&gv.api_version()).await;
            discovered.add_list(&gv, list);
        }
    }
    Ok(discovered)
}

/// The versions of a group, the preferred one first.
fn versions(group: &APIGroup) -> Vec<GroupVersion> {
    let preferred = group.preferred_version.as_ref().map(|v| v.version.as_str());
    let mut versions: Vec<GroupVersion> = group
        .versions
        .iter()
        .map(|v| GroupVersion { group: group.name.clone(), version: v.version.clone() })
        .collect();
    versions.sort_by_key(|gv| Some(gv.version.as_str()) != preferred);
    versions
}

#[cfg(test)]
impl Discovered {
    /// Of an answer in the form of aggregated discovery.
    pub(crate) fn of(groups: serde_json::Value) -> Self {
        let mut discovered = Discovered::default();
        let groups: Vec<APIGroupDiscovery> = serde_json::from_value(groups).expect("groups");
        groups.into_iter().for_each(|group| discovered.add_group(group));
        discovered
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resource(plural: &str, kind: &str) -> Value {
        json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["list"]})
    }

    fn discovered() -> Discovered {
        Discovered::of(json!([
            {"metadata": {"name": "a.io"}, "versions": [
                {"version": "v1", "freshness": "Current", "resources": [resource("bothes", "Both")]},
                {"version": "v1alpha1", "freshness": "Current",
                    "resources": [resource("bothes", "Both"), resource("olds", "Old")]},
            ]},
            {"metadata": {"name": "down.io"}, "versions": [
                {"version": "v1", "freshness": "Stale", "resources": [resource("things", "Thing")]},
            ]},
        ]))
    }

    #[test]
    fn a_kind_of_a_version_that_is_not_preferred_counts_once() {
        let found = discovered();
        let preferred: Vec<_> =
            found.preferred().map(|r| (r.api.plural.as_str(), r.api.version.as_str())).collect();
        assert_eq!(preferred, [("bothes", "v1"), ("olds", "v1alpha1")]);
    }

    #[test]
    fn a_kind_resolves_only_in_a_version_that_serves_it() {
        let found = discovered();
        assert!(found.resolve("a.io/v1alpha1", "Both").is_some());
        assert!(found.resolve("a.io/v1", "Old").is_none());
        assert!(found.resolve("down.io/v1", "Thing").is_none(), "its server does not answer");
    }

    #[test]
    fn a_stale_version_is_a_failure_of_its_group() {
        let found = discovered();
        assert!(found.has_failed("down.io") && !found.has_failed("a.io"));
        assert_eq!(
            found.failure_message().as_deref(),
            Some(
                "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
                 down.io/v1: stale GroupVersion discovery: down.io/v1"
            )
        );
    }
}

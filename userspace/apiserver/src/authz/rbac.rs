//! Role-based access control: roles and bindings, indexed by subject.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attributes::{Attributes, Decision};

/// One rule of a role. An absent list is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyRule {
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) verbs: Vec<String>,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(
        default,
        deserialize_with = "or_empty",
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) non_resource_urls: Vec<String>,
}

fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subject {
    User(String),
    Group(String),
}

/// Namespace (empty if cluster-wide) and name.
type Id = (String, String);

#[derive(Debug)]
struct RoleBinding {
    role_kind: String,
    role: String,
    subjects: Vec<Subject>,
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub(crate) struct RbacRules {
    roles: HashMap<Id, Arc<[PolicyRule]>>,
    bindings: HashMap<Id, RoleBinding>,
    by_subject: HashMap<Subject, BTreeSet<Id>>,
}

impl RbacRules {
    /// Adds or replaces a role or a binding; ignores other kinds.
    pub(crate) fn apply(&mut self, object: &Value) {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id = (text("/metadata/namespace"), text("/metadata/name"));
        match text("/kind").as_str() {
            "Role" | "ClusterRole" => {
                let rules = object.get("rules").map(parse_rules).unwrap_or_default();
                self.roles.insert(id, rules.into());
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                self.remove_binding(&id);
                let subjects = object.get("subjects").and_then(Value::as_array);
                let subjects: Vec<Subject> = subjects
                    .into_iter()
                    .flatten()
                    .filter_map(|subject| parse_subject(subject, &id.0))
                    .collect();
                for subject in &subjects {
                    self.by_subject.entry(subject.clone()).or_default().insert(id.clone());
                }
                let (role_kind, role) = (text("/roleRef/kind"), text("/roleRef/name"));
                self.bindings.insert(id, RoleBinding { role_kind, role, subjects });
            }
            _ => {}
        }
    }

    pub(crate) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let id = (namespace.to_owned(), name.to_owned());
        match kind {
            "Role" | "ClusterRole" => {
                self.roles.remove(&id);
            }
            "RoleBinding" | "ClusterRoleBinding" => self.remove_binding(&id),
            _ => {}
        }
    }

    fn remove_binding(&mut self, id: &Id) {
        let Some(binding) = self.bindings.remove(id) else { return };
        for subject in binding.subjects {
            if let Some(ids) = self.by_subject.get_mut(&subject) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
    }

    /// The rules of a role; `namespace` applies to a Role only.
    pub(crate) fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&[PolicyRule]> {
        let namespace = if kind == "ClusterRole" { "" } else { namespace };
        self.roles.get(&(namespace.to_owned(), name.to_owned())).map(AsRef::as_ref)
    }

    /// The first rule that allows the request decides.
    pub(crate) fn authorize(&self, request: &Attributes<'_>) -> Decision {
        let found = self
            .bindings_of(request.user, request.groups, request.namespace)
            .find(|(_, _, rules)| rules.iter().any(|rule| rule.allows(request)));
        match found {
            Some(((namespace, name), binding, _)) => {
                let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
                Decision::Allow(format!(
                    "RBAC: allowed by {kind} {:?} of {} {:?}",
                    [namespace.as_str(), name].join("/").trim_start_matches('/'),
                    binding.role_kind,
                    binding.role
                ))
            }
            None => Decision::NoOpinion(String::new()),
        }
    }

    /// Every rule that a user has in a namespace.
    pub(crate) fn rules_of(&self, user: &str, groups: &[String], namespace: &str) -> Vec<PolicyRule> {
        self.bindings_of(user, groups, namespace).flat_map(|(_, _, rules)| rules.iter().cloned()).collect()
    }

    fn bindings_of(
        &self,
        user: &str,
        groups: &[String],
        namespace: &str,
    ) -> impl Iterator<Item = (&Id, &RoleBinding, &[PolicyRule])> {
        let subjects = std::iter::once(Subject::User(user.to_owned()))
            .chain(groups.iter().map(|group| Subject::Group(group.clone())));
        let namespace = namespace.to_owned();
        subjects
            .filter_map(|subject| self.by_subject.get(&subject))
            .flatten()
            .filter(move |(of, _)| of.is_empty() || *of == namespace)
            .filter_map(|id| {
                let binding = self.bindings.get(id)?;
                Some((id, binding, self.role(&binding.role_kind, &id.0, &binding.role)?))
            })
    }
}

/// A service account becomes the user of its tokens.
fn parse_subject(subject: &Value, namespace: &str) -> Option<Subject> {
    let text = |field| subject.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = text("name")?;
    match text("kind")? {
        "User" => Some(Subject::User(name.to_owned())),
        "Group" => Some(Subject::Group(name.to_owned())),
        "ServiceAccount" => {
            let namespace = text("namespace").or(Some(namespace).filter(|namespace| !namespace.is_empty()))?;
            Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}")))
        }
        _ => None,
    }
}

/// Whether the rules of a ClusterRole are collected from other roles.
pub(super) fn is_aggregated(role: &Value) -> bool {
    role.pointer("/aggregationRule/clusterRoleSelectors")
        .and_then(Value::as_array)
        .is_some_and(|selectors| !selectors.is_empty())
}

/// Every right.
pub(super) fn full_authority() -> Vec<PolicyRule> {
    let all = || vec!["*".to_owned()];
    let resources = PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() };
    vec![resources, PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() }]
}

/// The rules of an object; an invalid rule grants nothing.
pub(super) fn parse_rules(rules: &Value) -> Vec<PolicyRule> {
    let rules = rules.as_array().into_iter().flatten();
    rules.filter_map(|rule| PolicyRule::deserialize(rule).ok()).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl PolicyRule {
    pub(crate) fn allows(&self, request: &Attributes<'_>) -> bool {
        if !has(&self.verbs, request.verb) {
            return false;
        }
        if !request.path.is_empty() {
            return self.non_resource_urls.iter().any(|url| path_matches(url, request.path));
        }
        has(&self.api_groups, request.group)
            && self
                .resources
                .iter()
                .any(|resource| resource_matches(resource, request.resource, request.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == request.name))
    }

    /// As Go prints it, which is what users of the API know.
    pub(super) fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
                parts.push(format!("{name}:[{}]", items.join(" ")));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }

    /// Whether everything that `wanted` allows is allowed by this rule alone.
    fn covers(&self, wanted: &PolicyRule) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|item| has(own, item));
        // Names have no wildcard: `*` is an object of that name.
        let named = |own: &[String], wanted: &[String]| wanted.iter().all(|name| own.contains(name));
        if !all(&self.verbs, &wanted.verbs) {
            return false;
        }
        if !wanted.non_resource_urls.is_empty() {
            let covers = |own: &String, url: &String| {
                own == url || own.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix))
            };
            let mut urls = wanted.non_resource_urls.iter();
            return urls.all(|url| self.non_resource_urls.iter().any(|own| covers(own, url)));
        }
        let names = self.resource_names.is_empty()
            || (!wanted.resource_names.is_empty() && named(&self.resource_names, &wanted.resource_names));
        names
            && all(&self.api_groups, &wanted.api_groups)
            && wanted.resources.iter().all(|resource| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                self.resources.iter().any(|own| resource_matches(own, resource, subresource))
            })
    }
}

fn path_matches(url: &str, path: &str) -> bool {
    url == "*" || url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// `*` is every resource and subresource, `*/x` the subresource x of every resource.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    let (of, sub) = rule.split_once('/').unwrap_or((rule, ""));
    sub == subresource && (of == resource || (of == "*" && !sub.is_empty()))
}

/// What of `wanted` no rule of `owned` covers, as the smallest rules.
pub(super) fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let small = wanted.iter().flat_map(break_down);
    small.filter(|wanted| !owned.iter().any(|owned| owned.covers(wanted))).collect()
}

/// The same as rules of one verb for one thing each.
fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut small = Vec::new();
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for url in &rule.non_resource_urls {
            let non_resource_urls = vec![url.clone()];
            small.push(PolicyRule { verbs: verbs.clone(), non_resource_urls, ..PolicyRule::default() });
        }
        for (group, resource) in
            rule.api_groups.iter().flat_map(|g| rule.resources.iter().map(move |r| (g, r)))
        {
            let one = PolicyRule {
                verbs: verbs.clone(),
                api_groups: vec![group.clone()],
                resources: vec![resource.clone()],
                ..PolicyRule::default()
            };
            if rule.resource_names.is_empty() {
                small.push(one);
                continue;
            }
            for name in &rule.resource_names {
                small.push(PolicyRule { resource_names: vec![name.clone()], ..one.clone() });
            }
        }
    }
    small
}

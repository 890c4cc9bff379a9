//! The flow of a request: the first FlowSchema that matches it, and what distinguishes its flow from others. PURE.

use serde::Deserialize;
use serde_json::Value;

use crate::authz::Attributes;

/// A FlowSchema as it matches requests. An absent list is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowSchema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    priority_level_configuration: Reference,
    #[serde(default)]
    matching_precedence: i32,
    #[serde(default)]
    distinguisher_method: Option<DistinguisherMethod>,
    #[serde(default)]
    rules: Option<Vec<Rules>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Reference {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct DistinguisherMethod {
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
    #[serde(default)]
    resource_rules: Option<Vec<ResourceRule>>,
    #[serde(default)]
    non_resource_rules: Option<Vec<NonResourceRule>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    #[serde(default)]
    user: Option<Named>,
    #[serde(default)]
    group: Option<Named>,
    #[serde(default)]
    service_account: Option<Account>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Named {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceRule {
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    api_groups: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    cluster_scope: bool,
    #[serde(default)]
    namespaces: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct NonResourceRule {
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
}

impl FlowSchema {
    /// `None` if the object is not one.
    pub(super) fn read(object: &Value) -> Option<FlowSchema> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let spec = Spec::deserialize(&object["spec"]).ok()?;
        Some(FlowSchema { name: text("name"), uid: text("uid"), spec })
    }

    pub(super) fn level(&self) -> &str {
        &self.spec.priority_level_configuration.name
    }

    /// Lower ones match first; of equal ones, the name decides.
    pub(super) fn precedence(&self) -> (i32, &str) {
        (self.spec.matching_precedence, &self.name)
    }

    pub(super) fn matches(&self, request: &Attributes<'_>) -> bool {
        all(&self.spec.rules).iter().any(|rules| rules.matches(request))
    }

    /// What distinguishes a flow from others of the schema; empty if all are one.
    pub(super) fn distinguisher<'a>(&self, request: &Attributes<'a>) -> &'a str {
        match self.spec.distinguisher_method.as_ref().map(|method| method.r#type.as_str()) {
            Some("ByUser") => request.user,
            Some("ByNamespace") => request.namespace,
            _ => "",
        }
    }
}

fn all<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rules {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        let is_requested = match request.path {
            "" => all(&self.resource_rules).iter().any(|rule| rule.matches(request)),
            _ => all(&self.non_resource_rules).iter().any(|rule| rule.matches(request)),
        };
        is_requested && all(&self.subjects).iter().any(|subject| subject.matches(request))
    }
}

impl Subject {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        let is_user = self.user.as_ref().is_some_and(|user| user.name == "*" || user.name == request.user);
        let of_group = |group: &Named| group.name == "*" || request.groups.contains(&group.name);
        let of_account = |account: &Account| {
            let found =
                request.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
            found.is_some_and(|(namespace, name)| {
                account.namespace == namespace && (account.name == "*" || account.name == name)
            })
        };
        is_user
            || self.group.as_ref().is_some_and(of_group)
            || self.service_account.as_ref().is_some_and(of_account)
    }
}

impl ResourceRule {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        let is_there = match request.namespace {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        is_there
            && has(&self.verbs, request.verb)
            && has(&self.api_groups, request.group)
            && self.resources.iter().any(|resource| is_resource(resource, request))
    }
}

/// `pods`, or `pods/status` for a subresource.
fn is_resource(rule: &str, request: &Attributes<'_>) -> bool {
    let (resource, subresource) = rule.split_once('/').unwrap_or((rule, ""));
    rule == "*" || resource == request.resource && subresource == request.subresource
}

impl NonResourceRule {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        let is_below = |url: &String| {
            url.strip_suffix('*')
                .filter(|prefix| prefix.ends_with('/'))
                .is_some_and(|prefix| request.path.starts_with(prefix))
        };
        has(&self.verbs, request.verb) && (has(&self.urls, request.path) || self.urls.iter().any(is_below))
    }
}

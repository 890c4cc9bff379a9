//! The audit policy: which requests are recorded, and in which detail. PURE.
//!
//! The form is `audit.k8s.io/v1` Policy; the first rule that matches decides.

use serde::Deserialize;

use crate::identity::Identity;
use crate::request_info::RequestInfo;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// A policy that was read and checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditPolicy {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde::de::IgnoredAny,
    #[serde(default)]
    rules: Vec<AuditRule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AuditRule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the events of one request contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventScope {
    pub(super) level: Level,
    pub(super) omit_stages: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

/// Resources with secret bodies: recorded only by a rule that names them.
const SECRET_RESOURCES: [(&str, &str); 3] =
    [("", "secrets"), ("", "serviceaccounts/token"), ("authentication.k8s.io", "tokenreviews")];

impl AuditPolicy {
    /// From YAML or JSON. The error names the field and the problem.
    pub fn parse(text: &str) -> Result<AuditPolicy, String> {
        let policy: AuditPolicy = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" {
            return Err(format!(
                "apiVersion: Unsupported value: {:?}: supported values: \"audit.k8s.io/v1\"",
                policy.api_version
            ));
        }
        if policy.kind != "Policy" {
            return Err(format!("kind: Unsupported value: {:?}: supported values: \"Policy\"", policy.kind));
        }
        if policy.rules.is_empty() {
            return Err("rules: Required value: a policy without a rule records nothing".to_owned());
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            rule.check(&format!("rules[{at}]"))?;
        }
        Ok(policy)
    }

    pub(super) fn evaluate(&self, identity: &Identity, request: &RequestInfo<'_>) -> EventScope {
        let omit_stages = self.omit_stages.clone();
        match self.rules.iter().find(|rule| rule.matches(identity, request)) {
            Some(rule) => EventScope {
                level: if rule.level > Level::Metadata && !rule.may_record_body(request) {
                    Level::Metadata
                } else {
                    rule.level
                },
                omit_stages: omit_stages.into_iter().chain(rule.omit_stages.iter().copied()).collect(),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
            None => {
                EventScope { level: Level::None, omit_stages, omit_managed_fields: self.omit_managed_fields }
            }
        }
    }
}

impl AuditRule {
    fn check(&self, path: &str) -> Result<(), String> {
        for (at, url) in self.non_resource_urls.iter().enumerate() {
            let invalid = |why| Err(format!("{path}.nonResourceURLs[{at}]: Invalid value: {url:?}: {why}"));
            if url != "*" && !url.starts_with('/') {
                return invalid("non-resource URL rules must begin with a '/' character");
            }
            if url.trim_end_matches('*').contains('*') || url.ends_with("**") {
                return invalid("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        if !self.non_resource_urls.is_empty() && (!self.resources.is_empty() || !self.namespaces.is_empty()) {
            let urls = &self.non_resource_urls;
            return Err(format!(
                "{path}.nonResourceURLs: Invalid value: {urls:?}: rules cannot apply to both regular resources and non-resource URLs"
            ));
        }
        match self.resources.iter().find(|of| !of.resource_names.is_empty() && of.resources.is_empty()) {
            Some(of) => Err(format!(
                "{path}.resources.resourceNames: Invalid value: {:?}: using resourceNames requires at least one resource",
                of.resource_names
            )),
            None => Ok(()),
        }
    }

    fn matches(&self, identity: &Identity, request: &RequestInfo<'_>) -> bool {
        let among = |list: &[String], wanted: &str| list.is_empty() || list.iter().any(|item| item == wanted);
        if !among(&self.users, &identity.user)
            || !among(&self.verbs, &request.verb)
            || !self.user_groups.is_empty()
                && !identity.groups.iter().any(|group| self.user_groups.contains(group))
        {
            return false;
        }
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            return !request.resource.is_empty()
                && among(&self.namespaces, &request.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|of| of.matches(request)));
        }
        self.non_resource_urls.is_empty()
            || request.resource.is_empty()
                && self.non_resource_urls.iter().any(|url| path_matches(url, &request.path))
    }

    /// Whether the rule allows bodies: those of a secret resource only if it names the resource.
    fn may_record_body(&self, request: &RequestInfo<'_>) -> bool {
        let requested = request.combined();
        let secret = SECRET_RESOURCES
            .iter()
            .any(|(group, resource)| *group == request.group && *resource == requested);
        let named = |of: &GroupResources| of.group == request.group && of.resources.contains(&requested);
        !secret || self.resources.iter().any(named)
    }
}

impl GroupResources {
    fn matches(&self, request: &RequestInfo<'_>) -> bool {
        if self.group != "*" && self.group != request.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.iter().any(|name| *name == request.name) {
            return false;
        }
        let requested = request.combined();
        self.resources.iter().any(|resource| {
            *resource == requested
                || resource == "*"
                || !request.subresource.is_empty()
                    && resource.strip_prefix("*/") == Some(&*request.subresource)
                || resource.strip_suffix("/*") == Some(&*request.resource)
        })
    }
}

fn path_matches(url: &str, path: &str) -> bool {
    url == "*" || url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    fn evaluate(rules: &str, method: Method, uri: &str) -> EventScope {
        let policy = AuditPolicy::parse(&format!("{HEAD}{rules}")).unwrap();
        policy.evaluate(&Identity::new("jane", &["dev"]), &RequestInfo::parse(&method, uri, false))
    }

    fn level(rules: &str, uri: &str) -> Level {
        evaluate(rules, Method::GET, uri).level
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = "rules:
- {level: None, users: [bob]}
- {level: None, userGroups: [ops]}
- {level: Metadata, nonResourceURLs: ['/api*', /version]}
- {level: Request, namespaces: [a], resources: [{group: '', resources: [pods, pods/*]}]}
- {level: RequestResponse, verbs: [list], resources: [{group: apps}]}
- {level: Metadata, resources: [{group: '*', resources: ['*/status']}, {group: '', resources: [nodes], resourceNames: [n]}]}
";
        for (uri, wanted) in [
            ("/api", Level::Metadata),
            ("/apis/apps", Level::Metadata),
            ("/healthz", Level::None),
            ("/api/v1/namespaces/a/pods/x", Level::Request),
            ("/api/v1/namespaces/a/pods/x/log", Level::Request),
            ("/api/v1/namespaces/b/pods/x", Level::None),
            ("/apis/apps/v1/deployments", Level::RequestResponse),
            ("/apis/apps/v1/namespaces/a/deployments/d", Level::None),
            ("/apis/apps/v1/namespaces/a/deployments/d/status", Level::Metadata),
            ("/api/v1/nodes/n", Level::Metadata),
            ("/api/v1/nodes/m", Level::None),
        ] {
            assert_eq!(level(rules, uri), wanted, "{uri}");
        }
    }

    #[test]
    fn bodies_of_secrets_are_recorded_only_by_rules_that_name_them() {
        for rules in [
            "rules: [{level: RequestResponse}]",
            "rules: [{level: Request, resources: [{group: '', resources: ['*']}]}]",
        ] {
            assert_eq!(level(rules, "/api/v1/namespaces/a/secrets/s"), Level::Metadata);
            assert_eq!(level(rules, "/api/v1/secrets"), Level::Metadata);
            assert_eq!(level(rules, "/api/v1/namespaces/a/serviceaccounts/s/token"), Level::Metadata);
            assert!(level(rules, "/api/v1/namespaces/a/configmaps/s") > Level::Metadata);
        }
        let named = "rules: [{level: RequestResponse, resources: [{group: '', resources: [secrets]}]}]";
        assert_eq!(level(named, "/api/v1/namespaces/a/secrets/s"), Level::RequestResponse);
    }

    #[test]
    fn stages_are_omitted_by_policy_and_rule_together() {
        let rules = "omitStages: [RequestReceived]\nomitManagedFields: true\nrules: [{level: Metadata, omitStages: [ResponseStarted]}]";
        let found = evaluate(rules, Method::GET, "/version");
        assert_eq!(found.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(found.omit_managed_fields);
    }

    #[test]
    fn an_invalid_policy_names_the_field() {
        for (rules, wanted) in [
            ("rules: []", "rules: Required value"),
            ("rules: [{level: Some}]", "Some"),
            ("rules: [{level: None, verb: [get]}]", "verb"),
            ("rules: [{level: None, nonResourceURLs: [x]}]", "rules[0].nonResourceURLs[0]"),
            ("rules: [{level: None, nonResourceURLs: ['/a*b']}]", "must be the final character"),
            ("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]", "both regular resources"),
            (
                "rules: [{level: None, resources: [{group: '', resourceNames: [a]}]}]",
                "requires at least one resource",
            ),
        ] {
            let error = AuditPolicy::parse(&format!("{HEAD}{rules}")).unwrap_err();
            assert!(error.contains(wanted), "{rules}: {error}");
        }
        let error = AuditPolicy::parse("apiVersion: v1\nkind: Policy\nrules: [{level: None}]").unwrap_err();
        assert!(error.contains("audit.k8s.io/v1"), "{error}");
    }
}

//! Which requests a webhook or a policy is for: rules, selectors of namespaces and of objects.

use serde_json::Value;
use skep_api::selector::LabelSelector;
use skep_api::{Kind, KindRef};

use super::{Operation, Request};
use crate::object::prefix;

/// Nobody registers himself between an administrator and what is registered.
const OWN: &str = "admissionregistration.k8s.io";

/// `rules`, `namespaceSelector` and `objectSelector` as webhooks and policies have them.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    namespaces: Selector,
    objects: Selector,
    /// Whether no rules at all mean every request, as in a binding.
    any: bool,
    /// Whether a rule is also for other versions of what it names (`matchPolicy: Equivalent`).
    equivalent: bool,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    names: Vec<String>,
}

/// A selector that cannot be read selects everything: what is not checked must not pass for it.
#[derive(Debug)]
struct Selector(LabelSelector);

impl Selector {
    fn of(value: &Value) -> Selector {
        Selector(LabelSelector::from_object(value).ok().flatten().unwrap_or_default())
    }
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

impl Rules {
    /// Of a webhook.
    pub(super) fn of_webhook(hook: &Value) -> Rules {
        Rules::of(hook, "rules", false)
    }

    /// Of `matchConstraints` or `matchResources`.
    pub(super) fn of_policy(matched: &Value, any: bool) -> Rules {
        Rules::of(matched, "resourceRules", any)
    }

    fn of(owner: &Value, field: &str, any: bool) -> Rules {
        let rules = |field: &str| owner[field].as_array().into_iter().flatten().map(Rule::of).collect();
        Rules {
            rules: rules(field),
            excluded: rules("excludeResourceRules"),
            namespaces: Selector::of(&owner["namespaceSelector"]),
            objects: Selector::of(&owner["objectSelector"]),
            any,
            equivalent: owner["matchPolicy"] == "Equivalent",
        }
    }

    /// The kind that a rule for the request names: the request's own, or an equivalent of it.
    pub(super) fn match_request(&self, request: &Request<'_>, object: &Value) -> Option<KindRef> {
        if request.kind().group == OWN
            || !self.of_namespace(request, object)
            || !self.of_object(request, object)
            || self.named(&self.excluded, request, object).is_some()
        {
            return None;
        }
        match self.any && self.rules.is_empty() {
            true => Some(request.call.target.kind.clone()),
            false => self.named(&self.rules, request, object),
        }
    }

    fn named(&self, rules: &[Rule], request: &Request<'_>, object: &Value) -> Option<KindRef> {
        let own = &request.call.target.kind;
        if rules.iter().any(|rule| rule.matches(request, own, object)) {
            return Some(own.clone());
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let others = equivalents(request);
        let mut pairs = rules.iter().flat_map(|rule| others.iter().map(move |kind| (rule, kind)));
        pairs.find(|(rule, kind)| rule.matches(request, kind, object)).map(|(_, kind)| kind.clone())
    }

    /// What is in no namespace is never exempt by one.
    fn of_namespace(&self, request: &Request<'_>, object: &Value) -> bool {
        if self.namespaces.0.is_empty() {
            return true;
        }
        let itself = request.is_part("", "namespaces");
        if itself && request.operation != Operation::Delete {
            return self.namespaces.0.matches(&object["metadata"]["labels"]);
        }
        let name = if itself { &request.call.target.name } else { request.namespace() };
        if name.is_empty() {
            return true;
        }
        match request.get("", "v1", "namespaces", "", name) {
            Some(namespace) => self.namespaces.0.matches(&namespace.selectable),
            None => true,
        }
    }

    fn of_object(&self, request: &Request<'_>, object: &Value) -> bool {
        let selects =
            |object: &Value| object.is_object() && self.objects.0.matches(&object["metadata"]["labels"]);
        self.objects.0.is_empty()
            || request.operation != Operation::Delete && selects(object)
            || request.old.is_some_and(selects)
    }
}

impl Rule {
    fn of(rule: &Value) -> Rule {
        Rule {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            names: texts(&rule["resourceNames"]),
        }
    }

    fn matches(&self, request: &Request<'_>, kind: &Kind, object: &Value) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
        has(&self.operations, request.operation.name())
            && has(&self.groups, kind.group)
            && has(&self.versions, kind.version)
            && self.resources.iter().any(|named| is_for(named, kind.plural, request.subresource()))
            && self.in_scope(request)
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.known_name(object)))
    }

    fn in_scope(&self, request: &Request<'_>) -> bool {
        match self.scope.as_str() {
            "Cluster" => !request.kind().namespaced(),
            "Namespaced" => request.kind().namespaced(),
            _ => true,
        }
    }
}

/// Other served kinds of the same stored objects.
fn equivalents(request: &Request<'_>) -> Vec<KindRef> {
    let own = request.kind();
    let (registry, place) = (request.call.server.caches.registry(), prefix(own));
    let is_other = |kind: &&KindRef| {
        kind.plural == own.plural
            && (kind.group, kind.version) != (own.group, own.version)
            && prefix(kind) == place
    };
    registry.iter().filter(is_other).cloned().collect()
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*` or `*/*`.
fn is_for(named: &str, plural: &str, subresource: &str) -> bool {
    let (resource, part) = named.split_once('/').unwrap_or((named, ""));
    (resource == "*" || resource == plural) && (part == "*" || part == subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_with_their_parts() {
        for (named, plural, part, wanted) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("pods/*", "pods", "status", true),
            ("pods/*", "pods", "", true),
            ("*/scale", "deployments", "scale", true),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "status", true),
            ("services", "pods", "", false),
        ] {
            assert_eq!(is_for(named, plural, part), wanted, "{named} {plural}/{part}");
        }
    }
}

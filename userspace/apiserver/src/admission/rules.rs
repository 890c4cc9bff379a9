//! The rules and selectors of webhooks and policies, as read from their objects. `request_match` applies them to requests.

use serde_json::Value;
use skep_api::selector::LabelSelector;

/// `rules`, `namespaceSelector` and `objectSelector` as webhooks and policies have them.
#[derive(Debug)]
pub(super) struct MatchRules {
    pub(super) rules: Vec<MatchRule>,
    pub(super) excluded: Vec<MatchRule>,
    pub(super) namespaces: Selector,
    pub(super) objects: Selector,
    /// Whether an empty list of rules matches every request, as in a binding.
    pub(super) empty_matches_all: bool,
    /// Whether a rule also matches other versions of its resource (`matchPolicy: Equivalent`).
    pub(super) equivalent: bool,
}

#[derive(Debug)]
pub(super) struct MatchRule {
    pub(super) operations: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) versions: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) scope: String,
    pub(super) names: Vec<String>,
}

/// An invalid selector selects everything: a hook must not be skipped because of it.
#[derive(Debug)]
pub(super) struct Selector(pub(super) LabelSelector);

impl Selector {
    fn of(value: &Value) -> Selector {
        Selector(LabelSelector::from_object(value).ok().flatten().unwrap_or_default())
    }
}

fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

impl MatchRules {
    /// Of a webhook.
    pub(super) fn of_webhook(hook: &Value) -> MatchRules {
        MatchRules::of(hook, "rules", false)
    }

    /// Of `matchConstraints` or `matchResources`.
    pub(super) fn of_policy(matched: &Value, empty_matches_all: bool) -> MatchRules {
        MatchRules::of(matched, "resourceRules", empty_matches_all)
    }

    fn of(owner: &Value, field: &str, empty_matches_all: bool) -> MatchRules {
        let rules = |field: &str| owner[field].as_array().into_iter().flatten().map(MatchRule::of).collect();
        MatchRules {
            rules: rules(field),
            excluded: rules("excludeResourceRules"),
            namespaces: Selector::of(&owner["namespaceSelector"]),
            objects: Selector::of(&owner["objectSelector"]),
            empty_matches_all,
            equivalent: owner["matchPolicy"] == "Equivalent",
        }
    }
}

impl MatchRule {
    fn of(rule: &Value) -> MatchRule {
        MatchRule {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            names: texts(&rule["resourceNames"]),
        }
    }
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*` or `*/*`.
pub(super) fn is_for(named: &str, plural: &str, subresource: &str) -> bool {
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

//! Roles; ClusterRoles follow the same rules.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::validate_selector;
use crate::kinds::row::Row;
use crate::names::NameForm;
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    schema: "api.rbac.v1.Role",
    strategy: Strategy { validate, own_required: true, name: NameForm::PathSegment, ..Strategy::NONE },
    ..Row::NAMESPACED
};

fn validate(object: &Value, errors: &mut Errors) {
    for (i, rule) in items(object, "rules").enumerate() {
        let path = Path::new("rules").index(i);
        if items(rule, "verbs").next().is_none() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let urls = items(rule, "nonResourceURLs").next().is_some();
        if urls {
            if object["metadata"]["namespace"].is_string() {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&path.child("nonResourceURLs"), &rule["nonResourceURLs"], detail);
            }
            let fields = ["apiGroups", "resources", "resourceNames"];
            if fields.iter().any(|field| items(rule, field).next().is_some()) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&path.child("nonResourceURLs"), &rule["nonResourceURLs"], detail);
            }
            continue;
        }
        if items(rule, "apiGroups").next().is_none() {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if items(rule, "resources").next().is_none() {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
    validate_aggregation(&object["aggregationRule"], &Path::new("aggregationRule"), errors);
}

/// The rule of a ClusterRole that joins others.
fn validate_aggregation(rule: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("clusterRoleSelectors");
    if rule.is_object() && items(rule, "clusterRoleSelectors").next().is_none() {
        errors.required(&at, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in items(rule, "clusterRoleSelectors").enumerate() {
        validate_selector(selector, &at.index(i), errors);
    }
}

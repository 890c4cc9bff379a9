//! LimitRanges: bounds and defaults of the resources in a namespace.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::resource_requirements::{Owner, validate_resource_name};
use crate::kinds::row::Row;
use crate::names::{NameForm, name_problem, validate_name};
use crate::quantity::Quantity;
use crate::resources::Resources;
use crate::value::{items, items_mut, set_default, text};

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

pub(super) const ROW: Row = Row {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    schema: "api.core.v1.LimitRange",
    strategy: Strategy { default, validate, own_required: true, ..Strategy::NONE },
    ..Row::NAMESPACED
};

/// An absent default limit is the maximum; an absent default request is the default limit, else the minimum.
fn default(object: &mut Value) {
    for limit in items_mut(&mut object["spec"], "limits").filter(|limit| limit["type"] == "Container") {
        for (field, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let values = limit[from].clone();
            for (name, value) in values.as_object().into_iter().flatten() {
                set_default(limit, field, json!({}));
                set_default(&mut limit[field], name, value.clone());
            }
        }
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, limit) in items(&object["spec"], "limits").enumerate() {
        let path = Path::new("spec").child("limits").index(i);
        let kind = text(&limit["type"]);
        validate_type(kind, &path.child("type"), errors);
        let owner = if matches!(kind, "Pod" | "Container") { Owner::Container } else { Owner::Any };
        let validate_names = |list: &str, errors: &mut Errors| {
            for name in limit[list].as_object().into_iter().flat_map(Map::keys) {
                validate_resource_name(name, owner, &path.child(list).key(name), errors);
            }
        };
        if !seen.insert(kind) {
            errors.duplicate(&path.child("type"), &kind.into());
        }
        validate_names("max", errors);
        validate_names("min", errors);
        if kind == "Pod" {
            for list in ["default", "defaultRequest"] {
                if limit[list].as_object().is_some_and(|list| !list.is_empty()) {
                    errors.forbidden(&path.child(list), "may not be specified when `type` is 'Pod'");
                }
            }
        } else {
            validate_names("default", errors);
            validate_names("defaultRequest", errors);
        }
        if kind == "PersistentVolumeClaim"
            && limit["min"]["storage"].is_null()
            && limit["max"]["storage"].is_null()
        {
            let why = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(&path.child("limits"), why);
        }
        validate_names("maxLimitRequestRatio", errors);
        let lists = LISTS.map(|list| Resources::of(&limit[list]));
        let names: BTreeSet<&String> = lists.iter().flat_map(|list| list.0.keys()).collect();
        for name in names {
            validate_bounds(name, lists.each_ref().map(|list| list.get(name)), &path, errors);
        }
    }
}

/// A standard type, or one with a domain.
fn validate_type(kind: &str, path: &Path, errors: &mut Errors) {
    validate_name(kind, NameForm::LabelKey, path, errors);
    let is_standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
    if name_problem(kind, NameForm::LabelKey).is_none() && !kind.contains('/') && !is_standard {
        errors.invalid(path, &kind.into(), "must be a standard limit type or fully qualified");
    }
}

/// Compares the values of one resource in [`LISTS`].
fn validate_bounds(
    name: &str,
    [max, min, default, request, ratio]: [Option<Quantity>; 5],
    path: &Path,
    errors: &mut Errors,
) {
    let mut order = |list: &str,
                     low: (&str, Option<Quantity>),
                     high: (&str, Option<Quantity>),
                     shown: Option<Quantity>| {
        if let (Some(less), Some(more), Some(shown)) = (low.1, high.1, shown)
            && less > more
        {
            let why = format!("{} value {less} is greater than {} value {more}", low.0, high.0);
            errors.invalid(&path.child(list).key(name), &json!(shown.to_string()), &why);
        }
    };
    order("min", ("min", min), ("max", max), min);
    order("defaultRequest", ("min", min), ("default request", request), request);
    order("defaultRequest", ("default request", request), ("max", max), request);
    order("defaultRequest", ("default request", request), ("default limit", default), request);
    order("default", ("min", min), ("default", default), min);
    order("default", ("default", default), ("max", max), max);
    let Some(ratio) = ratio else { return };
    let at = path.child("maxLimitRequestRatio").key(name);
    if ratio < Quantity::from_millis(1000) {
        errors.invalid(&at, &json!(ratio.to_string()), &format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let max_ratio = max.millis() as f64 / min.millis() as f64;
        if ratio.millis() as f64 / 1000.0 > max_ratio {
            let why = format!("ratio {ratio} is greater than max/min = {max_ratio:.6}");
            errors.invalid(&at, &json!(ratio.to_string()), &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::error_texts;

    #[test]
    fn a_range_fills_itself() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}, {"type": "Pod", "max": {"cpu": "2"}}]}});
        default(&mut range);
        let limit = &range["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert!(range["spec"]["limits"][1]["default"].is_null());
    }

    #[test]
    fn ranges_must_make_sense() {
        let mut failed = Vec::new();
        for (limit, wanted) in [
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}}),
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value 2 is greater than default limit value 1",
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ),
            (
                json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            ),
            (
                json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ),
            (json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}}), ""),
        ] {
            let found = error_texts(validate, &json!({"spec": {"limits": [limit]}}));
            if found != wanted {
                failed.push(format!("wanted {wanted}, found {found}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

//! PodDisruptionBudgets.

use serde_json::Value;

use super::containers::one_of;
use super::numbers::count_or_percent;
use crate::field::{Errors, Path};
use crate::selector::LabelSelector;

pub(super) fn validate_budget(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        count_or_percent(&spec[field], &path.child(field), errors);
    }
    if let Err(bad) = LabelSelector::from_object(&spec["selector"]) {
        errors.invalid(&path.child("selector"), &spec["selector"], &bad.0);
    }
    one_of(spec, "unhealthyPodEvictionPolicy", &path, &["AlwaysAllow", "IfHealthyBudget"], errors);
}

//! PriorityClasses and RuntimeClasses.

use serde_json::Value;

use super::containers::one_of;
use super::numbers::quantities;
use crate::field::{Errors, Path};
use crate::meta;
use crate::names::{self, NameForm};
use crate::value::{immutable, set_default};

/// Above it are the priorities of the system.
const PRIORITY_MAX: i64 = 1_000_000_000;
const SYSTEM: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) fn default_priority_class(object: &mut Value) {
    set_default(object, "preemptionPolicy", "PreemptLowerPriority");
}

pub(super) fn validate_priority_class(object: &Value, errors: &mut Errors) {
    let (name, value) = (meta::name(object), object["value"].as_i64().unwrap_or(0));
    if name.starts_with("system-") {
        let known = SYSTEM.iter().find(|(system, _)| *system == name);
        let problem = match known {
            None => "not a known system priority class".to_owned(),
            Some((_, wanted)) if *wanted != value => {
                format!("value of {name} PriorityClass must be {wanted}")
            }
            Some(_) if object["globalDefault"] == true => {
                format!("globalDefault of {name} PriorityClass must be false")
            }
            Some(_) => return,
        };
        let detail = format!(
            "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
        );
        errors.forbidden(&Path::new("metadata").child("name"), &detail);
    } else if value > PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}");
        errors.forbidden(&Path::new("value"), &detail);
    }
    one_of(object, "preemptionPolicy", &Path::new(""), &["Never", "PreemptLowerPriority"], errors);
}

pub(super) fn validate_priority_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new["value"] != old["value"] {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    immutable(&new["preemptionPolicy"], &old["preemptionPolicy"], &Path::new("preemptionPolicy"), errors);
}

pub(super) fn validate_runtime_class(object: &Value, errors: &mut Errors) {
    match object["handler"].as_str() {
        None | Some("") => errors.required(&Path::new("handler"), ""),
        Some(handler) => {
            if let Some(problem) = names::name_problem(handler, NameForm::Label) {
                errors.invalid(&Path::new("handler"), &object["handler"], problem);
            }
        }
    }
    let (scheduling, path) = (&object["scheduling"], Path::new("scheduling"));
    names::validate_labels(&scheduling["nodeSelector"], &path.child("nodeSelector"), errors);
    quantities(&object["overhead"]["podFixed"], &Path::new("overhead").child("podFixed"), errors);
}

pub(super) fn validate_runtime_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["handler"], &old["handler"], &Path::new("handler"), errors);
}

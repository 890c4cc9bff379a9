//! MutatingAdmissionPolicyBindings.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::admission_policy::validate_changeable;
use crate::kinds::admission_policy_binding;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;

pub(super) const ROW: Row = Row {
    group: "admissionregistration.k8s.io",
    kind: "MutatingAdmissionPolicyBinding",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    categories: &["api-extensions"],
    schema: "api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    columns: admission_policy_binding::COLUMNS,
    strategy: Strategy {
        generation: true,
        default: admission_policy_binding::default,
        validate,
        ..Strategy::NONE
    },
    ..Row::CLUSTER
};

fn validate(object: &Value, errors: &mut Errors) {
    admission_policy_binding::validate(object, errors);
    let at = Path::new("spec").child("matchResources");
    validate_changeable(&object["spec"]["matchResources"], &at, errors);
}

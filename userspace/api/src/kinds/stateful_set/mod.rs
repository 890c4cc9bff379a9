//! StatefulSets.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::{count_or_percent, is_zero, not_negative};
use crate::kinds::pod_template::columns::{CONTAINERS, IMAGES, READY_REPLICAS};
use crate::kinds::pod_template::{default_template, validate_replicas_and_template};
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{one_of, set_default};

/// Fields of the specification that an update may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    subresources: &["scale", "status"],
    schema: "api.apps.v1.StatefulSet",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, validate_update, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, READY_REPLICAS, AGE, CONTAINERS, IMAGES];

fn default(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    set_default(spec, "replicas", 1);
    set_default(spec, "podManagementPolicy", "OrderedReady");
    set_default(spec, "updateStrategy", json!({}));
    set_default(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if spec["updateStrategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    let retain = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    set_default(spec, "persistentVolumeClaimRetentionPolicy", retain);
    default_template(spec);
}

fn validate(object: &Value, errors: &mut Errors) {
    validate_replicas_and_template(object, errors);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let policy = &spec["podManagementPolicy"];
    if !matches!(policy.as_str(), Some("OrderedReady" | "Parallel")) {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.invalid(&path.child("podManagementPolicy"), policy, detail);
    }
    let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
    match strategy["type"].as_str() {
        Some("OnDelete") if !strategy["rollingUpdate"].is_null() => errors.invalid(
            &at.child("rollingUpdate"),
            &strategy["rollingUpdate"],
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        Some("OnDelete") => {}
        Some("RollingUpdate") => {
            let (rolling, at) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
            not_negative(rolling, &["partition"], &at, errors);
            count_or_percent(&rolling["maxUnavailable"], &at.child("maxUnavailable"), errors);
            if is_zero(&rolling["maxUnavailable"]) {
                errors.invalid(&at.child("maxUnavailable"), &rolling["maxUnavailable"], "cannot be 0");
            }
        }
        _ => errors.invalid(&at, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let retention = path.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        one_of(
            &spec["persistentVolumeClaimRetentionPolicy"],
            field,
            &retention,
            &["Delete", "Retain"],
            errors,
        );
    }
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    not_negative(&spec["ordinals"], &["start"], &path.child("ordinals"), errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |object: &Value| {
        let mut spec = object["spec"].as_object().cloned().unwrap_or_default();
        spec.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
        spec
    };
    if fixed(new) != fixed(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.forbidden(&Path::new("spec"), detail);
    }
}

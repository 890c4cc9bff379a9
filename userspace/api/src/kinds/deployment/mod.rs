//! Deployments.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::{at_most_all, count, count_or_percent, not_negative};
use crate::kinds::pod_template::columns::{CONTAINERS, IMAGES, READY_REPLICAS, SELECTOR};
use crate::kinds::pod_template::{
    Workload, default_template, validate_endless, validate_selected_template, validate_selector_update,
};
use crate::kinds::pod_warnings::template_warnings;
use crate::kinds::row::Row;
use crate::table::cell::number_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{internal, set_default, set_zero_default, text};

pub(super) const ROW: Row = Row {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &["scale", "status"],
    schema: "api.apps.v1.Deployment",
    columns: COLUMNS,
    strategy: Strategy {
        generation: true,
        counts_annotations: true,
        default,
        validate,
        own_required: true,
        warnings: template_warnings,
        validate_update: validate_selector_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    READY_REPLICAS,
    Column::text("Up-to-date", |object, _| number_cell(&object["status"]["updatedReplicas"])),
    Column::text("Available", |object, _| number_cell(&object["status"]["availableReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    set_default(spec, "replicas", 1);
    set_default(spec, "strategy", json!({}));
    set_zero_default(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        set_default(&mut spec["strategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    default_template(spec);
}

const WORKLOAD: Workload = Workload { kind: "deployment", unreadable: "invalid label selector" };

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &["replicas"], &path, errors);
    validate_selected_template(spec, &WORKLOAD, &path, errors);
    validate_endless(spec, "ReplicaSet", &path, errors);
    validate_strategy(&spec["strategy"], &path.child("strategy"), errors);
    let numbers = ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    not_negative(spec, &numbers, &path, errors);
    let (deadline, ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64());
    if deadline.is_some_and(|deadline| deadline <= ready.unwrap_or(0)) {
        let at = path.child("progressDeadlineSeconds");
        errors.invalid(&at, &spec["progressDeadlineSeconds"], "must be greater than minReadySeconds");
    }
}

fn validate_strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "Recreate" if rolling.is_object() => {
            errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let (unavailable_at, surge_at) = (at.child("maxUnavailable"), at.child("maxSurge"));
            count_or_percent(unavailable, &unavailable_at, errors);
            count_or_percent(surge, &surge_at, errors);
            if count(unavailable) == 0 && count(surge) == 0 {
                errors.invalid(&unavailable_at, unavailable, "may not be 0 when `maxSurge` is 0");
            }
            at_most_all(unavailable, &unavailable_at, errors);
        }
        "Recreate" => {}
        _ => {
            // As upstream shows its internal type.
            let shown = json!({"Type": text(&strategy["type"]), "RollingUpdate": internal(rolling, &["maxUnavailable", "maxSurge"])});
            errors.not_supported(path, &shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

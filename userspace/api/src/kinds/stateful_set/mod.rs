//! StatefulSets.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::{at_most_all, count, count_or_percent, not_negative};
use crate::kinds::persistent_volume_claim;
use crate::kinds::pod_template::columns::{CONTAINERS, IMAGES, READY_REPLICAS};
use crate::kinds::pod_template::{Workload, default_template, validate_endless, validate_selected_template};
use crate::kinds::pod_warnings::template_warnings;
use crate::kinds::row::Row;
use crate::names::{NameForm, validate_optional_name};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{internal, is_zero, items, items_mut, one_of, set_default, set_zero_default, text};

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
    strategy: Strategy {
        name: NameForm::Label,
        generation: true,
        default,
        validate,
        own_required: true,
        warnings: template_warnings,
        validate_update,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, READY_REPLICAS, AGE, CONTAINERS, IMAGES];

fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    set_default(spec, "replicas", 1);
    set_default(spec, "serviceName", "");
    set_zero_default(spec, "podManagementPolicy", "OrderedReady");
    set_default(spec, "updateStrategy", json!({}));
    let strategy = &mut spec["updateStrategy"];
    if is_zero(&strategy["type"]) {
        set_zero_default(strategy, "type", "RollingUpdate");
        set_default(strategy, "rollingUpdate", json!({}));
    }
    if strategy["type"] == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
        set_default(&mut strategy["rollingUpdate"], "partition", 0);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
    for field in ["whenDeleted", "whenScaled"] {
        set_zero_default(&mut spec["persistentVolumeClaimRetentionPolicy"], field, "Retain");
    }
    default_template(spec);
    set_default(object, "status", json!({}));
    set_default(&mut object["status"], "availableReplicas", 0);
    let spec = &mut object["spec"];
    for claim in items_mut(spec, "volumeClaimTemplates") {
        set_default(claim, "apiVersion", "v1");
        set_default(claim, "kind", "PersistentVolumeClaim");
        persistent_volume_claim::default(claim);
    }
}

const WORKLOAD: Workload = Workload { kind: "statefulset", unreadable: "" };

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let policy = text(&spec["podManagementPolicy"]);
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.invalid(&path.child("podManagementPolicy"), &policy.into(), detail);
    }
    validate_strategy(&spec["updateStrategy"], &path.child("updateStrategy"), errors);
    let (retention, at) =
        ("persistentVolumeClaimRetentionPolicy", path.child("persistentVolumeClaimRetentionPolicy"));
    for field in ["whenDeleted", "whenScaled"] {
        one_of(&spec[retention], field, &at, &["Retain", "Delete"], errors);
    }
    for (i, claim) in items(spec, "volumeClaimTemplates").enumerate() {
        let at = path.child("volumeClaimTemplates").index(i).child("spec");
        persistent_volume_claim::validate_spec(&claim["spec"], &at, errors);
    }
    not_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    not_negative(&spec["ordinals"], &["start"], &path.child("ordinals"), errors);
    validate_optional_name(spec, "serviceName", NameForm::Label, &path, errors);
    let filled = with_claims(spec);
    validate_selected_template(filled.as_ref().unwrap_or(spec), &WORKLOAD, &path, errors);
    validate_endless(spec, "StatefulSet", &path, errors);
}

/// The specification with the claims as volumes of its pods, and without the names that the controller sets; `None` if it has
/// none of these.
fn with_claims(spec: &Value) -> Option<Value> {
    let claims: Vec<&Value> = items(spec, "volumeClaimTemplates").collect();
    let pod = &spec["template"]["spec"];
    let names = ["subdomain", "hostname"];
    if claims.is_empty() && names.iter().all(|field| is_zero(&pod[*field])) {
        return None;
    }
    let mut filled = json!({"selector": spec["selector"], "template": spec["template"]});
    let pod = filled["template"]["spec"].as_object_mut()?;
    names.iter().for_each(|field| drop(pod.remove(*field)));
    let name = |claim: &Value| claim["metadata"]["name"].clone();
    let mut seen = HashSet::new();
    let mut volumes: Vec<Value> = claims
        .iter()
        .filter(|claim| seen.insert(text(&claim["metadata"]["name"])))
        .map(|claim| json!({"name": name(claim), "persistentVolumeClaim": {"claimName": name(claim)}}))
        .collect();
    let own = pod.remove("volumes").unwrap_or_default();
    let is_claim = |volume: &Value| claims.iter().any(|claim| claim["metadata"]["name"] == volume["name"]);
    volumes.extend(own.as_array().into_iter().flatten().filter(|volume| !is_claim(volume)).cloned());
    if !volumes.is_empty() {
        pod.insert("volumes".into(), volumes.into());
    }
    Some(filled)
}

fn validate_strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        // As upstream shows its internal types.
        "OnDelete" if rolling.is_object() => {
            let partition = rolling["partition"].as_i64().unwrap_or_default();
            let shown = json!({"Partition": partition, "MaxUnavailable": rolling["maxUnavailable"]});
            errors.invalid(&at, &shown, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            not_negative(rolling, &["partition"], &at, errors);
            let (unavailable, at) = (&rolling["maxUnavailable"], at.child("maxUnavailable"));
            if !unavailable.is_null() {
                count_or_percent(unavailable, &at, errors);
                if count(unavailable) == 0 {
                    errors.invalid(&at, unavailable, "cannot be 0");
                }
                at_most_all(unavailable, &at, errors);
            }
        }
        kind => {
            let rolling = internal(rolling, &["partition", "maxUnavailable"]);
            let shown = json!({"Type": kind, "RollingUpdate": rolling});
            errors.invalid(path, &shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
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

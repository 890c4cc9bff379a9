//! CSIDrivers.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::{NONE, UNSET, joined, list_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{immutable, items, one_of, set_default, text};

pub(super) const ROW: Row = Row {
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    schema: "api.storage.v1.CSIDriver",
    columns: COLUMNS,
    strategy: Strategy { default, validate, own_required: true, validate_update, warnings, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::boolean("AttachRequired", |object, _| (object["spec"]["attachRequired"] != false).into()),
    Column::boolean("PodInfoOnMount", |object, _| (object["spec"]["podInfoOnMount"] == true).into()),
    Column::boolean("StorageCapacity", |object, _| (object["spec"]["storageCapacity"] == true).into()),
    Column::text("TokenRequests", token_requests),
    Column::boolean("RequiresRepublish", |object, _| (object["spec"]["requiresRepublish"] == true).into()),
    Column::text("Modes", |object, _| list_cell(&object["spec"], "volumeLifecycleModes", NONE)),
    AGE,
];

fn default(object: &mut Value) {
    set_default(object, "spec", json!({}));
    for (field, value) in [
        ("attachRequired", json!(true)),
        ("podInfoOnMount", json!(false)),
        ("storageCapacity", json!(false)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("volumeLifecycleModes", json!(["Persistent"])),
        ("requiresRepublish", json!(false)),
        ("seLinuxMount", json!(false)),
    ] {
        set_default(&mut object["spec"], field, value);
    }
}

const GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLE_MODES: [&str; 2] = ["Persistent", "Ephemeral"];
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const MIN_UPDATE_SECONDS: i64 = 10;

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    one_of(spec, "fsGroupPolicy", &path, &GROUP_POLICIES, errors);
    validate_token_requests(spec, &path.child("tokenRequests"), errors);
    for mode in items(spec, "volumeLifecycleModes").filter(|mode| !LIFECYCLE_MODES.contains(&text(mode))) {
        errors.not_supported(&path.child("volumeLifecycleModes"), mode, &LIFECYCLE_MODES);
    }
    let seconds = &spec["nodeAllocatableUpdatePeriodSeconds"];
    if seconds.as_i64().is_some_and(|seconds| seconds < MIN_UPDATE_SECONDS) {
        let at = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&at, seconds, "must be greater than or equal to 10 seconds");
    }
    let in_secrets = &spec["serviceAccountTokenInSecrets"];
    if !in_secrets.is_null() && items(spec, "tokenRequests").next().is_none() {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets, detail);
    }
}

fn validate_token_requests(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut audiences = HashSet::new();
    for (i, request) in items(spec, "tokenRequests").enumerate() {
        let (at, audience) = (path.index(i), text(&request["audience"]));
        if !audiences.insert(audience) {
            errors.duplicate(&at.child("audience"), &audience.into());
            continue;
        }
        let (at, seconds) = (at.child("expirationSeconds"), &request["expirationSeconds"]);
        match seconds.as_i64() {
            Some(..MIN_TOKEN_SECONDS) => {
                errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(found) if found > MAX_TOKEN_SECONDS => {
                errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    for (field, shown) in
        [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
    {
        immutable(&new["spec"][field], &old["spec"][field], &path.child(shown), errors);
    }
}

/// Warns of tokens that a driver may log, if they are new.
fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = &object["spec"];
    let has_new = items(spec, "tokenRequests").next().is_some()
        && old.is_none_or(|old| old["spec"]["tokenRequests"] != spec["tokenRequests"]);
    if !has_new || !spec["serviceAccountTokenInSecrets"].is_null() {
        return Vec::new();
    }
    vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()]
}

fn token_requests(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["tokenRequests"] {
        Value::Array(all) => joined(all.iter().filter_map(|request| request["audience"].as_str())).into(),
        _ => UNSET.into(),
    }
}

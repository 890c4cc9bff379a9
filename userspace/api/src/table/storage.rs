//! The cells of volumes, claims, classes and drivers.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{NONE, cells, joined, list_of, text, text_or};
use crate::meta;
use crate::value::items;

const UNSET: &str = "<unset>";
/// Classes were annotations once, and still may be.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

cells! {
    volume_capacity = |o| quantity(&o["spec"]["capacity"]["storage"]);
    volume_modes = |o| modes(&o["spec"]).into();
    reclaim_policy = |o| text(&o["spec"]["persistentVolumeReclaimPolicy"]);
    phase = |o| {
        if o["metadata"]["deletionTimestamp"].is_string() { return "Terminating".into() }
        text(&o["status"]["phase"])
    };
    claim = |o| match &o["spec"]["claimRef"] {
        Value::Null => "".into(),
        claim => format!("{}/{}", text_or(&claim["namespace"], ""), text_or(&claim["name"], "")).into(),
    };
    volume_class = |o| {
        let annotated = o["metadata"]["annotations"][CLASS].as_str();
        annotated.unwrap_or(text_or(&o["spec"]["storageClassName"], "")).into()
    };
    attributes_class = |o| text_or(&o["spec"]["volumeAttributesClassName"], UNSET).into();
    volume_reason = |o| text(&o["status"]["reason"]);
    volume_mode = |o| text_or(&o["spec"]["volumeMode"], UNSET).into();
    volume = |o| text(&o["spec"]["volumeName"]);
    claim_capacity = |o| if is_bound(o) { quantity(&o["status"]["capacity"]["storage"]) } else { "".into() };
    claim_modes = |o| if is_bound(o) { modes(&o["status"]).into() } else { "".into() };
    class_name = |o| {
        let annotations = &o["metadata"]["annotations"];
        let default = DEFAULT_CLASS.iter().any(|name| annotations[*name] == "true");
        format!("{}{}", meta::name(o), if default { " (default)" } else { "" }).into()
    };
    provisioner = |o| text(&o["provisioner"]);
    class_reclaim_policy = |o| text_or(&o["reclaimPolicy"], "Delete").into();
    binding_mode = |o| text_or(&o["volumeBindingMode"], "Immediate").into();
    expansion = |o| (o["allowVolumeExpansion"] == true).into();
    driver_name = |o| text(&o["driverName"]);
    attacher = |o| text(&o["spec"]["attacher"]);
    attached_volume = |o| text(&o["spec"]["source"]["persistentVolumeName"]);
    attached_node = |o| text(&o["spec"]["nodeName"]);
    attached = |o| (o["status"]["attached"] == true).into();
    drivers = |o| items(&o["spec"], "drivers").count().into();
    attach_required = |o| (o["spec"]["attachRequired"] != false).into();
    pod_info = |o| (o["spec"]["podInfoOnMount"] == true).into();
    storage_capacity = |o| (o["spec"]["storageCapacity"] == true).into();
    token_requests = |o| match &o["spec"]["tokenRequests"] {
        Value::Array(all) => joined(all.iter().filter_map(|request| request["audience"].as_str())).into(),
        _ => UNSET.into(),
    };
    republish = |o| (o["spec"]["requiresRepublish"] == true).into();
    lifecycle_modes = |o| list_of(&o["spec"], "volumeLifecycleModes", NONE);
    capacity_class = |o| text(&o["storageClassName"]);
    free = |o| if o["capacity"].is_null() { UNSET.into() } else { quantity(&o["capacity"]) };
}

fn is_bound(claim: &Value) -> bool {
    claim["spec"]["volumeName"].as_str().is_some_and(|name| !name.is_empty())
}

fn quantity(value: &Value) -> Value {
    if value.is_null() { "0".into() } else { text(value) }
}

/// `RWO,ROX`, each once and in upstream's order.
fn modes(object: &Value) -> String {
    let all = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| items(object, "accessModes").any(|found| found == mode);
    joined(all.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short))
}

//! APIServices: a group's version and its server, this one or a Service of the cluster.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::names::{self, NameForm};
use crate::table::cell::text_or;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, set_default};

/// Marks an object that this server manages: `onstart`, or `true` if it follows a definition.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

pub(super) const ROW: Row = Row {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    subresources: &["status"],
    schema: "kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    columns: COLUMNS,
    strategy: Strategy { default, validate, validate_status, name: NameForm::PathSegment, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, Column::text("Service", api_service), Column::text("Available", api_available), AGE];

fn default(object: &mut Value) {
    if object["spec"]["service"].is_object() {
        set_default(&mut object["spec"]["service"], "port", 443);
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    let path = Path::new("spec");
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let (group, version) = (text("group"), text("version"));
    let wanted = name_of(group, version);
    if object["metadata"]["name"] != wanted.as_str() {
        let why = format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\"");
        errors.invalid(&Path::new("metadata").child("name"), &object["metadata"]["name"], &why);
    }
    if group.is_empty() && version != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&path.child("group"), why);
    }
    names::validate_optional_name(spec, "group", NameForm::Subdomain, &path, errors);
    names::validate_name(version, NameForm::Label1035, &path.child("version"), errors);
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        if !(1..=max).contains(&spec[field].as_i64().unwrap_or(0)) {
            let why = format!("must be positive and less than {max}");
            errors.invalid(&path.child(field), &spec[field], &why);
        }
    }
    validate_service(spec, &path, errors);
}

fn validate_service(spec: &Value, path: &Path, errors: &mut Errors) {
    let bundle = spec["caBundle"].as_str().unwrap_or_default();
    let (careless, at) = (spec["insecureSkipTLSVerify"] == true, path.child("insecureSkipTLSVerify"));
    let service = &spec["service"];
    if !service.is_object() {
        if !bundle.is_empty() {
            let size = json!(format!("{} bytes", bundle.len() / 4 * 3));
            errors.invalid(&path.child("caBundle"), &size, "local APIServices may not have a caBundle");
        }
        if careless {
            errors.invalid(&at, &json!(true), "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    let inner = path.child("service");
    for field in ["namespace", "name"] {
        if service[field].as_str().is_none_or(str::is_empty) {
            errors.required(&inner.child(field), "");
        }
    }
    if !(1..=65_535).contains(&service["port"].as_i64().unwrap_or(0)) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.invalid(&inner.child("port"), &service["port"], why);
    }
    if careless && !bundle.is_empty() {
        errors.invalid(&at, &json!(true), "may not be true if caBundle is present");
    }
}

fn validate_status(object: &Value, _: &Value, errors: &mut Errors) {
    let path = Path::new("status").child("conditions");
    let known = ["True", "False", "Unknown"];
    for (at, condition) in items(&object["status"], "conditions").enumerate() {
        if !known.iter().any(|known| condition["status"] == *known) {
            errors.not_supported(&path.index(at).child("status"), &condition["status"], &known);
        }
    }
}

/// The name of the APIService of a group and version.
pub fn name_of(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// The priorities of a local group and of a version in it, as upstream has them; they order discovery.
pub fn priorities(group: &str, version: &str) -> (i64, i64) {
    let of_group = match group {
        "" => return (18_000, 1),
        // The group of APIServices itself has no APIService and comes first.
        "apiregistration.k8s.io" => 20_000,
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "certificates.k8s.io" => 17_300,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "storage.k8s.io" => 16_800,
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" => 16_700,
        "scheduling.k8s.io" => 16_600,
        "coordination.k8s.io" => 16_500,
        "node.k8s.io" => 16_300,
        "discovery.k8s.io" | "resource.k8s.io" => 16_200,
        "flowcontrol.apiserver.k8s.io" => 16_100,
        // As the manifest of metrics-server has it.
        "metrics.k8s.io" => return (100, 100),
        // Custom resources.
        _ => return (1_000, 100),
    };
    let of_version = match (group, version) {
        ("autoscaling", "v2") => 30,
        ("resource.k8s.io" | "flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, "v1") => 15,
        _ => 9,
    };
    (of_group, of_version)
}

/// The APIService of a group and version that this server serves itself. Without `managed` it is a user's to change.
pub fn local(group: &str, version: &str, managed: Option<&str>) -> Value {
    let (group_priority, version_priority) = priorities(group, version);
    let mut spec = json!({
        "version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority,
    });
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    let mut metadata = json!({"name": name_of(group, version)});
    if let Some(managed) = managed {
        metadata["labels"] = json!({MANAGED: managed});
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": metadata,
        "spec": spec,
    })
}

fn api_service(object: &Value, _: Timestamp) -> Value {
    match &object["spec"]["service"] {
        Value::Null => "Local".into(),
        service => format!("{}/{}", text_or(&service["namespace"], ""), text_or(&service["name"], "")).into(),
    }
}

fn api_available(object: &Value, _: Timestamp) -> Value {
    match items(&object["status"], "conditions").find(|condition| condition["type"] == "Available") {
        Some(condition) if condition["status"] == "True" => "True".into(),
        Some(condition) => {
            format!("{} ({})", text_or(&condition["status"], ""), text_or(&condition["reason"], "")).into()
        }
        None => "Unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::error_texts;

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn an_api_service_names_one_version_and_at_most_one_server() {
        let remote = json!({"namespace": "a", "name": "b", "port": 443});
        let mut failed = Vec::new();
        for (name, spec, wanted) in [
            (
                "v1.g.io",
                json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "service": remote}),
                "",
            ),
            ("v1.", json!({"version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}), ""),
            (
                "x",
                json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}),
                "must be `spec.version+\".\"+spec.group`: \"v1.g.io\"",
            ),
            (
                "v2.",
                json!({"version": "v2", "groupPriorityMinimum": 1, "versionPriority": 1}),
                "only v1 may have an empty group",
            ),
            (
                "v1.g.io",
                json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 20_001, "versionPriority": 1}),
                "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
            ),
            (
                "v1.g.io",
                json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "insecureSkipTLSVerify": true}),
                "local APIServices may not have insecureSkipTLSVerify",
            ),
            (
                "v1.g.io",
                json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"name": "x", "port": 0}}),
                "spec.service.namespace: Required value; spec.service.port: Invalid value: 0",
            ),
            (
                "v1.g.io",
                json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1, "service": remote, "caBundle": "YQ==", "insecureSkipTLSVerify": true}),
                "may not be true if caBundle is present",
            ),
        ] {
            let found = error_texts(validate, &service(name, spec));
            if wanted.is_empty() != found.is_empty() || !found.contains(wanted) {
                failed.push(format!("{name}: {found}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn what_is_served_here_is_registered_as_it_should_be() {
        for (group, version) in
            [("", "v1"), ("apps", "v1"), ("autoscaling", "v2"), ("example.com", "v1beta1")]
        {
            assert_eq!(error_texts(validate, &local(group, version, Some("onstart"))), "");
        }
    }
}

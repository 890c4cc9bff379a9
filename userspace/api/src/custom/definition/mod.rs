//! CustomResourceDefinitions: defaults, and validation in upstream's words and paths. If all versions have a part in common,
//! upstream reports its errors at the path of v1beta1: `spec.validation` instead of `spec.versions[0].schema`.

mod approval;
mod canonical;
mod conversion;
mod field_path;
mod rules;
mod schema;
mod status;
mod structural;
mod versions;

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::Kind;
use crate::meta;
use crate::names::{NameForm, name_problem};
use crate::value::{immutable, items, items_mut, set_default, text};

use approval::{API_APPROVED, Approval, approval, is_protected};
pub use status::{
    AcceptedNames, CLEANUP, Verdict, established, is_decided, is_true, judge, mark_for_deletion,
    set_condition,
};

/// The API group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";

/// Whether the kind is CustomResourceDefinition itself.
pub fn is_definition(kind: &Kind) -> bool {
    kind.group == GROUP && kind.kind == "CustomResourceDefinition"
}

pub(crate) fn default(object: &mut Value) {
    let storage = items(&object["spec"], "versions").find(|version| version["storage"] == true);
    let storage = storage.map(|version| version["name"].clone());
    let spec = &mut object["spec"];
    let kind = text(&spec["names"]["kind"]).to_owned();
    set_default(&mut spec["names"], "singular", kind.to_lowercase());
    if !kind.is_empty() {
        set_default(&mut spec["names"], "listKind", format!("{kind}List"));
    }
    set_default(spec, "conversion", json!({"strategy": "None"}));
    if spec["preserveUnknownFields"] == false
        && let Some(fields) = spec.as_object_mut()
    {
        fields.shift_remove("preserveUnknownFields");
    }
    for version in items_mut(spec, "versions") {
        version.pointer_mut("/schema/openAPIV3Schema").into_iter().for_each(canonical::schema);
    }
    let service =
        spec.pointer_mut("/conversion/webhook/clientConfig/service").filter(|service| service.is_object());
    if let Some(service) = service {
        set_default(service, "port", 443);
    }
    default_status(object, storage);
}

/// A storage version stays in storedVersions until all objects have been migrated.
fn default_status(object: &mut Value, storage: Option<Value>) {
    set_default(object, "status", json!({}));
    let status = &mut object["status"];
    set_default(status, "conditions", Value::Null);
    set_default(status, "acceptedNames", json!({"plural": "", "kind": ""}));
    set_default(status, "storedVersions", Value::Null);
    if let Some(storage) = storage {
        match status["storedVersions"].as_array_mut() {
            Some(stored) if stored.contains(&storage) => {}
            Some(stored) => stored.push(storage),
            None => status["storedVersions"] = json!([storage]),
        }
    }
}

pub(crate) fn validate(object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    let (plural, group) = (text(&spec["names"]["plural"]), text(&spec["group"]));
    if meta::name(object) != format!("{plural}.{group}") {
        let at = Path::new("metadata").child("name");
        errors.invalid(&at, &object["metadata"]["name"], "must be spec.names.plural+\".\"+spec.group");
    }
    let path = Path::new("spec");
    validate_group(spec, &path, errors);
    validate_names(&spec["names"], &path.child("names"), errors);
    if spec["preserveUnknownFields"] == true {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), &spec["preserveUnknownFields"], why);
    }
    versions::validate(spec, &path, errors);
    conversion::validate(&spec["conversion"], &path.child("conversion"), errors);
    validate_stored(object, errors);
    // A definition without conditions is new.
    if items(&object["status"], "conditions").next().is_none() {
        validate_approval(object, errors);
    }
}

fn validate_group(spec: &Value, path: &Path, errors: &mut Errors) {
    let group = text(&spec["group"]);
    if !group.is_empty() {
        let at = path.child("group");
        if let Some(problem) = name_problem(group, NameForm::Subdomain) {
            errors.invalid(&at, &spec["group"], problem);
        } else if !group.contains('.') {
            errors.invalid(&at, &spec["group"], "should be a domain with at least one dot");
        }
    }
    if spec["scope"].is_string() && spec["scope"] != "Namespaced" && spec["scope"] != "Cluster" {
        errors.not_supported(&path.child("scope"), &spec["scope"], &["Cluster", "Namespaced"]);
    }
}

fn validate_names(names: &Value, path: &Path, errors: &mut Errors) {
    let mut label = |name: &Value, at: Path, prefix: &str| {
        let lower = if prefix.is_empty() { text(name).to_owned() } else { text(name).to_lowercase() };
        if !lower.is_empty()
            && let Some(problem) = name_problem(&lower, NameForm::Label1035)
        {
            errors.invalid(&at, name, &format!("{prefix}{problem}"));
        }
    };
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for (name, prefix) in [("plural", ""), ("singular", ""), ("kind", MIXED), ("listKind", MIXED)] {
        label(&names[name], path.child(name), prefix);
    }
    for list in ["shortNames", "categories"] {
        for (i, name) in items(names, list).enumerate() {
            label(name, path.child(list).index(i), "");
        }
    }
    if names["kind"].is_string() && names["kind"] == names["listKind"] {
        errors.invalid(&path.child("listKind"), &names["listKind"], "kind and listKind may not be the same");
    }
}

fn validate_stored(object: &Value, errors: &mut Errors) {
    let path = Path::new("status").child("storedVersions");
    let stored = &object["status"]["storedVersions"];
    let versions: Vec<&Value> = items(&object["spec"], "versions").collect();
    if stored.as_array().is_none_or(Vec::is_empty) {
        return errors.invalid(&path, &json!([]), "must have at least one stored version");
    }
    for (i, name) in items(&object["status"], "storedVersions").enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let name_text = text(name);
            let why = format!(
                "missing from spec.versions; {name_text} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name_text} and removes {name_text} from status.storedVersions"
            );
            errors.invalid(&path.index(i), name, &why);
        }
    }
}

pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (path, spec, before) = (Path::new("spec"), &new["spec"], &old["spec"]);
    if is_true(old, "Established") {
        immutable(&spec["scope"], &before["scope"], &path.child("scope"), errors);
        let at = path.child("names").child("kind");
        immutable(&spec["names"]["kind"], &before["names"]["kind"], &at, errors);
    }
    immutable(&spec["group"], &before["group"], &path.child("group"), errors);
    let at = path.child("names").child("plural");
    immutable(&spec["names"]["plural"], &before["names"]["plural"], &at, errors);
    if approval(new) != approval(old) {
        validate_approval(new, errors);
    }
}

/// Groups of the Kubernetes community need an approval annotation.
fn validate_approval(object: &Value, errors: &mut Errors) {
    if !is_protected(text(&object["spec"]["group"])) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(API_APPROVED);
    let annotation = &object["metadata"]["annotations"][API_APPROVED];
    match approval(object) {
        Approval::Missing => errors.required(
            &path,
            &format!("protected groups must have approval annotation \"{API_APPROVED}\", see https://github.com/kubernetes/enhancements/pull/1111"),
        ),
        Approval::Invalid => errors.invalid(
            &path,
            annotation,
            &format!("protected groups must have approval annotation \"{API_APPROVED}\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"),
        ),
        Approval::Bypassed | Approval::Given => {}
    }
}

/// Warnings for unknown formats in the schemas; they are not validated.
pub(crate) fn warnings(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for version in items(&object["spec"], "versions") {
        schema::visit_all(&version["schema"]["openAPIV3Schema"], &mut |schema| {
            let format = text(&schema["format"]);
            if !format.is_empty() && !super::formats::is_known(text(&schema["type"]), format) {
                found.push(format!("unrecognized format {format:?}"));
            }
        });
    }
    found.sort();
    found.dedup();
    found
}

//! RoleBindings; ClusterRoleBindings follow the same rules.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::names::{NameForm, validate_optional_name};
use crate::table::cell::text_or;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, one_of, require_text, set_default, set_zero_default, text};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const ROW: Row = Row {
    group: "rbac.authorization.k8s.io",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    schema: "api.rbac.v1.RoleBinding",
    columns: COLUMNS,
    strategy: Strategy {
        default,
        validate,
        own_required: true,
        validate_update,
        name: NameForm::PathSegment,
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Role", |object, _| {
        format!(
            "{}/{}",
            object["roleRef"]["kind"].as_str().unwrap_or_default(),
            object["roleRef"]["name"].as_str().unwrap_or_default()
        )
        .into()
    }),
    AGE,
    Column::wide("Users", |object, _| subjects(object, "User").into()),
    Column::wide("Groups", |object, _| subjects(object, "Group").into()),
    Column::wide("ServiceAccounts", |object, _| subjects(object, "ServiceAccount").into()),
];

pub(super) fn default(object: &mut Value) {
    set_default(object, "roleRef", json!({}));
    set_zero_default(&mut object["roleRef"], "apiGroup", GROUP);
    for subject in items_mut(object, "subjects") {
        if matches!(text(&subject["kind"]), "User" | "Group") {
            set_zero_default(subject, "apiGroup", GROUP);
        }
    }
}

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let (role, path) = (&object["roleRef"], Path::new("roleRef"));
    let is_namespaced = object["metadata"]["namespace"].is_string();
    let kinds: &[&str] = if is_namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    one_of(role, "apiGroup", &path, &[GROUP], errors);
    let kind = text(&role["kind"]);
    if !kinds.contains(&kind) {
        errors.not_supported(&path.child("kind"), &kind.into(), kinds);
    }
    if require_text(role, "name", &path, errors) {
        validate_optional_name(role, "name", NameForm::PathSegment, &path, errors);
    }
    for (i, subject) in items(object, "subjects").enumerate() {
        validate_subject(subject, is_namespaced, &Path::new("subjects").index(i), errors);
    }
}

fn validate_subject(subject: &Value, is_namespaced: bool, path: &Path, errors: &mut Errors) {
    require_text(subject, "name", path, errors);
    let group = text(&subject["apiGroup"]);
    match text(&subject["kind"]) {
        "ServiceAccount" => {
            validate_optional_name(subject, "name", NameForm::Subdomain, path, errors);
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), &group.into(), &[""]);
            }
            if !is_namespaced {
                require_text(subject, "namespace", path, errors);
            }
        }
        "User" | "Group" => one_of(subject, "apiGroup", path, &[GROUP], errors),
        kind => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.not_supported(&path.child("kind"), &kind.into(), &kinds);
        }
    }
}

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new["roleRef"] != old["roleRef"] {
        errors.invalid(&Path::new("roleRef"), &new["roleRef"], "cannot change roleRef");
    }
}

fn subjects(object: &Value, kind: &str) -> String {
    let of_kind = items(object, "subjects").filter(|subject| subject["kind"] == kind);
    let names = of_kind.map(|subject| {
        let name = text_or(&subject["name"], "");
        match subject["namespace"].as_str() {
            Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
            _ => name.to_owned(),
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

//! RoleBindings; ClusterRoleBindings follow the same rules.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::names::NameForm;
use crate::table::cell::text_or;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, items_mut, set_default};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const ROW: Row = Row {
    group: "rbac.authorization.k8s.io",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    schema: "api.rbac.v1.RoleBinding",
    columns: COLUMNS,
    strategy: Strategy { default, validate, validate_update, name: NameForm::PathSegment, ..Strategy::NONE },
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
    if object["roleRef"].is_object() {
        set_default(&mut object["roleRef"], "apiGroup", GROUP);
    }
    for subject in items_mut(object, "subjects") {
        if subject["kind"] != "ServiceAccount" {
            set_default(subject, "apiGroup", GROUP);
        }
    }
}

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let role = &object["roleRef"];
    let kinds: &[&str] =
        if object["metadata"]["namespace"].is_string() { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.iter().any(|kind| role["kind"] == *kind) {
        errors.not_supported(&Path::new("roleRef").child("kind"), &role["kind"], kinds);
    }
    for (i, subject) in items(object, "subjects").enumerate() {
        let path = Path::new("subjects").index(i);
        if subject["name"].as_str().is_none_or(str::is_empty) {
            errors.required(&path.child("name"), "");
        }
        match subject["kind"].as_str() {
            Some("ServiceAccount") if subject["namespace"].as_str().is_none_or(str::is_empty) => {
                errors.required(&path.child("namespace"), "");
            }
            Some("ServiceAccount" | "User" | "Group") => {}
            _ => errors.not_supported(
                &path.child("kind"),
                &subject["kind"],
                &["ServiceAccount", "User", "Group"],
            ),
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

//! Namespaces: the name label, the finalizer and the phase that each has.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::names::{NameForm, validate_name};
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::{items, set_default, text};

pub(super) const ROW: Row = Row {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    subresources: &["finalize", "status"],
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    schema: "api.core.v1.Namespace",
    selectable_fields: &["metadata.name", "status.phase"],
    columns: COLUMNS,
    strategy: Strategy {
        default,
        prepare_create,
        prepare_update,
        validate_create: validate,
        name: NameForm::Label,
        ..Strategy::NONE
    },
    ..Row::CLUSTER
};

const FINALIZER: &str = "kubernetes";

const COLUMNS: &[Column] =
    &[NAME, Column::text("Status", |object, _| text_cell(&object["status"]["phase"])), AGE];

fn default(object: &mut Value) {
    let name = meta::name(object).to_owned();
    let metadata = meta::of_mut(object);
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_object() {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
    set_default(object, "spec", json!({}));
    set_default(object, "status", json!({"phase": "Active"}));
}

/// Every namespace has the finalizer that holds it until its content is deleted.
fn prepare_create(object: &mut Value) {
    set_default(&mut object["spec"], "finalizers", json!([]));
    if let Some(finalizers) = object["spec"]["finalizers"].as_array_mut()
        && !finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    {
        finalizers.push(FINALIZER.into());
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let at = Path::new("spec").child("finalizers");
    for finalizer in items(&object["spec"], "finalizers") {
        let name = text(finalizer);
        validate_name(name, NameForm::LabelKey, &at, errors);
        if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&at, &name.into(), detail);
        }
    }
}

/// Only the subresource `finalize` changes the finalizers.
fn prepare_update(new: &mut Value, old: &Value) {
    set_default(new, "spec", json!({}));
    let Some(spec) = new["spec"].as_object_mut() else { return };
    match old["spec"].get("finalizers") {
        Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers.clone()),
        None => spec.remove("finalizers"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find;
    use crate::kinds::Part;

    fn finalizers(object: &Value) -> &Value {
        &object["spec"]["finalizers"]
    }

    #[test]
    fn a_new_namespace_always_has_the_finalizer() {
        let kind = find("", "v1", "namespaces").unwrap();
        let rows = [
            (json!({}), json!(["kubernetes"])),
            (json!({"spec": {}}), json!(["kubernetes"])),
            (json!({"spec": {"finalizers": null}}), json!(["kubernetes"])),
            (json!({"spec": {"finalizers": []}}), json!(["kubernetes"])),
            (json!({"spec": {"finalizers": ["x.io/y"]}}), json!(["x.io/y", "kubernetes"])),
            (json!({"spec": {"finalizers": ["kubernetes"]}}), json!(["kubernetes"])),
        ];
        for (mut new, wanted) in rows {
            new["metadata"] = json!({"name": "n"});
            kind.complete_new(&mut new);
            assert_eq!(finalizers(&new), &wanted);
        }
    }

    #[test]
    fn an_update_keeps_the_finalizers() {
        let kind = find("", "v1", "namespaces").unwrap();
        let old = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes", "x.io/y"]}, "status": {}});
        for spec in [json!(null), json!({}), json!({"finalizers": []}), json!({"finalizers": ["z.io/z"]})] {
            let mut new = json!({"metadata": {"name": "n"}, "spec": spec});
            kind.prepare_update(&mut new, &old, Part::Main);
            assert_eq!(finalizers(&new), finalizers(&old), "{spec}");
        }
        let mut new = json!({"metadata": {"name": "n"}, "spec": {"finalizers": []}, "status": {}});
        kind.prepare_update(&mut new, &old, Part::Whole);
        assert_eq!(finalizers(&new), &json!([]), "the subresource changes them");
    }
}

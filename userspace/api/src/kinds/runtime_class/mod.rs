//! RuntimeClasses.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::numbers::quantities;
use crate::kinds::row::Row;
use crate::names::{self, NameForm};
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::immutable;

pub(super) const ROW: Row = Row {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    schema: "api.node.v1.RuntimeClass",
    columns: COLUMNS,
    strategy: Strategy { validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[NAME, Column::text("Handler", |object, _| text_cell(&object["handler"])), AGE];

fn validate(object: &Value, errors: &mut Errors) {
    match object["handler"].as_str() {
        None | Some("") => errors.required(&Path::new("handler"), ""),
        Some(handler) => names::validate_name(handler, NameForm::Label, &Path::new("handler"), errors),
    }
    let (scheduling, path) = (&object["scheduling"], Path::new("scheduling"));
    names::validate_labels(&scheduling["nodeSelector"], &path.child("nodeSelector"), errors);
    quantities(&object["overhead"]["podFixed"], &Path::new("overhead").child("podFixed"), errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["handler"], &old["handler"], &Path::new("handler"), errors);
}

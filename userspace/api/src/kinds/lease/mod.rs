//! Leases.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::text_cell;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    schema: "api.coordination.v1.Lease",
    columns: COLUMNS,
    strategy: Strategy { validate, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] =
    &[NAME, Column::text("Holder", |object, _| text_cell(&object["spec"]["holderIdentity"])), AGE];

fn validate(object: &Value, errors: &mut Errors) {
    let seconds = &object["spec"]["leaseDurationSeconds"];
    if seconds.as_i64().is_some_and(|n| n <= 0) {
        errors.invalid(&Path::new("spec").child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
}

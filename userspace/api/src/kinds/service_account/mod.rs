//! ServiceAccounts.

use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &["token"],
    schema: "api.core.v1.ServiceAccount",
    columns: COLUMNS,
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, AGE];

//! ResourceClaimTemplates.

use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    schema: "api.resource.v1.ResourceClaimTemplate",
    columns: COLUMNS,
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, AGE];

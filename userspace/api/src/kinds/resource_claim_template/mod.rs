//! ResourceClaimTemplates.

use super::resource_claim::default_devices;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    schema: "api.resource.v1.ResourceClaimTemplate",
    columns: COLUMNS,
    strategy: Strategy {
        default: |template| default_devices(template.pointer_mut("/spec/spec/devices")),
        ..Strategy::NONE
    },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, AGE];

//! LoadBalancerPools: addresses for Services of type LoadBalancer. A kind of Skep's own.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::ip::parse_cidr;
use crate::kinds::kind::Strategy;
use crate::kinds::label_selector::validate_selector;
use crate::kinds::row::Row;
use crate::table::cell::list_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "skep.io",
    version: "v1alpha1",
    kind: "LoadBalancerPool",
    plural: "loadbalancerpools",
    singular: "loadbalancerpool",
    short_names: &["lbpool"],
    schema: "skep.v1alpha1.LoadBalancerPool",
    columns: COLUMNS,
    strategy: Strategy { generation: true, validate, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, Column::text("CIDRs", |object, _| list_cell(&object["spec"], "cidrs", "")), AGE];

/// Any number of ranges of both families, and a selector of the Services that may use them.
fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if items(spec, "cidrs").next().is_none() {
        errors.required(&path.child("cidrs"), "at least one CIDR required");
    }
    for (i, cidr) in items(spec, "cidrs").enumerate() {
        parse_cidr(cidr.as_str().unwrap_or_default(), &path.child("cidrs").index(i), errors);
    }
    validate_selector(&spec["serviceSelector"], &path.child("serviceSelector"), errors);
}

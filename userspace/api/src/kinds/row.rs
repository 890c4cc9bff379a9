//! A built-in kind as its folder declares it, in constants.

use super::kind::{ALL, Kind, Scope, Strategy};
use super::name::{Name, Names};
use crate::table::column::{CREATED, Column, NAME};

/// The verbs of a resource whose objects are answered and never stored.
pub(crate) const CREATE: &[&str] = &["create"];

/// One served version of a kind. [`Row::NAMESPACED`] and [`Row::CLUSTER`] hold what most kinds have in common.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// Empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) scope: Scope,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) subresources: &'static [&'static str],
    pub(crate) verbs: &'static [&'static str],
    /// The name of its type in the schema facts.
    pub(crate) schema: &'static str,
    pub(crate) selectable_fields: &'static [&'static str],
    pub(crate) field_names: &'static [(&'static str, &'static str)],
    pub(crate) columns: &'static [Column],
    pub(crate) strategy: Strategy,
}

impl Row {
    pub(crate) const NAMESPACED: Row = Row {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        scope: Scope::Namespaced,
        short_names: &[],
        categories: &[],
        subresources: &[],
        verbs: ALL,
        schema: "",
        selectable_fields: &["metadata.name", "metadata.namespace"],
        field_names: &[],
        columns: &[NAME, CREATED],
        strategy: Strategy::NONE,
    };
    /// As upstream, the namespace of a cluster-scoped object may be selected too, and is empty.
    pub(crate) const CLUSTER: Row = Row { scope: Scope::Cluster, ..Row::NAMESPACED };
}

impl From<&'static Row> for Kind {
    fn from(row: &'static Row) -> Kind {
        Kind {
            group: Name::Static(row.group),
            version: Name::Static(row.version),
            kind: Name::Static(row.kind),
            plural: Name::Static(row.plural),
            singular: Name::Static(row.singular),
            scope: row.scope,
            short_names: Names::Static(row.short_names),
            categories: Names::Static(row.categories),
            subresources: row.subresources,
            verbs: row.verbs,
            schema: row.schema,
            selectable_fields: Names::Static(row.selectable_fields),
            field_names: row.field_names,
            columns: row.columns,
            strategy: row.strategy,
            custom: None,
        }
    }
}

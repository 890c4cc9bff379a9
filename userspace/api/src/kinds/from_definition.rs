//! Custom kinds: a CustomResourceDefinition in, a [`Kind`] for each version that it serves out.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::kind::{ALL, ALL_BUT_CREATE, Kind, Scope, Strategy};
use super::name::{Name, Names};
use crate::custom::definition::is_true;
use crate::custom::{Custom, Definition};
use crate::value::{items, text};

/// The kinds of one definition.
#[derive(Clone, Debug, Default)]
pub struct DefinedKinds {
    /// One for each served version of an established definition.
    pub served: Vec<Arc<Kind>>,
    /// The storage version's, served or not; `None` if the definition cannot be read.
    pub stored: Option<Arc<Kind>>,
}

/// Reads a definition that was validated when it was written.
pub fn defined_kinds(definition: &Value) -> DefinedKinds {
    let spec = &definition["spec"];
    let accepted = &definition["status"]["acceptedNames"];
    let names = if accepted["kind"].is_string() { accepted } else { &spec["names"] };
    let Some(storage) = items(spec, "versions").find(|version| version["storage"] == true) else {
        return DefinedKinds::default();
    };
    let shared = Arc::new(Definition::parse(definition, text(&storage["name"])));
    let kind = |version: &Value| Some(Arc::new(kind(spec, names, version, &shared)?));
    let established = is_true(definition, "Established");
    let served = items(spec, "versions").filter(|version| established && version["served"] == true);
    DefinedKinds { served: served.filter_map(kind).collect(), stored: kind(storage) }
}

fn kind(spec: &Value, names: &Value, version: &Value, definition: &Arc<Definition>) -> Option<Kind> {
    let version_read = definition.version(text(&version["name"]))?.clone();
    let name = |value: &Value| Name::from(text(value));
    let list = |field: &str| -> Names { items(names, field).map(text).collect() };
    let has = |subresource: &str| version["subresources"][subresource].is_object();
    Some(Kind {
        group: name(&spec["group"]),
        version: version_read.name.clone(),
        kind: name(&names["kind"]),
        plural: name(&names["plural"]),
        singular: name(&names["singular"]),
        scope: if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        short_names: list("shortNames"),
        categories: list("categories"),
        subresources: match (has("scale"), has("status")) {
            (true, true) => &["scale", "status"],
            (true, false) => &["scale"],
            (false, true) => &["status"],
            (false, false) => &[],
        },
        verbs: if definition.terminating { ALL_BUT_CREATE } else { ALL },
        schema: "",
        selectable_fields: version_read.selectable.clone(),
        field_names: &[],
        columns: &[],
        strategy: Strategy { generation: true, ..Strategy::NONE },
        custom: Some(Arc::new(Custom {
            list_kind: name(&names["listKind"]),
            definition: definition.clone(),
            version: version_read,
            published_v2: OnceLock::new(),
        })),
    })
}

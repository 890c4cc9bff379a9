//! OpenAPI documents: v3 for one group and version, v2 for all. In: the registry of kinds. Out: JSON, or protobuf for v2.
//!
//! Documents are written schema by schema: with a thousand definitions a document as one value takes gigabytes.

mod gnostic;
mod writer;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::aggregate::{self, Remote};
use crate::custom::Custom;
use crate::custom::publish::{self, References};
use crate::kinds::{Kind, KindRef, Registry};
use crate::schema::{self, Field, Shape, Type, descriptions, named};
use writer::ObjectWriter;

/// Types that every document has.
const META_TYPES: [&str; 4] = [
    "apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "apimachinery.pkg.apis.meta.v1.ListMeta",
    "apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "apimachinery.pkg.apis.meta.v1.Status",
];

/// The version of OpenAPI.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn folder(self) -> &'static str {
        if self == Dialect::V2 { "#/definitions/" } else { "#/components/schemas/" }
    }

    fn reference(self, name: &str) -> String {
        format!("{}io.k8s.{name}", self.folder())
    }

    fn reference_to(self, kind: &Kind) -> String {
        match kind.custom {
            Some(_) => format!("{}{}", self.folder(), publish::name(kind)),
            None => self.reference(kind.schema),
        }
    }

    fn references(self) -> References {
        References { folder: self.folder(), alone: self == Dialect::V3 }
    }
}

/// `/openapi/v3`: the path of the document of each group and version. `hash` identifies the program's version; documents
/// with custom resources append a hash of their definitions.
pub fn v3_index(registry: &Registry, remotes: &[Remote], hash: &str) -> Value {
    let mut documents: Vec<(String, Option<u64>)> = Vec::new();
    for kind in registry.iter() {
        let (path, custom) = (root(kind), kind.custom.as_ref().map(|custom| custom.version.hash));
        match documents.iter_mut().find(|(known, _)| *known == path) {
            Some((_, hash)) => *hash = custom.or(*hash).map(|new| new ^ hash.unwrap_or(0).rotate_left(1)),
            None => documents.push((path, custom)),
        }
    }
    let mut paths = Map::new();
    for (path, custom) in documents {
        let suffix = custom.map(|hash| format!("-{hash:016x}")).unwrap_or_default();
        let url = format!("/openapi/v3/{path}?hash={hash}{suffix}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    aggregate::add_to_index(&mut paths, remotes);
    json!({"paths": paths})
}

fn root(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

/// `/openapi/v3/apis/<group>/<version>`; `None` if there is no such version.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<String> {
    let rows: Vec<&KindRef> = registry.of(group, version).collect();
    if rows.is_empty() {
        return None;
    }
    let mut out = ObjectWriter::new();
    out.value("openapi", &json!("3.0.0"));
    out.value("info", &json!({"title": "Kubernetes", "version": "v1.36.0"}));
    out.value("paths", &Value::Object(paths(Dialect::V3, &rows)));
    let mut schemas = ObjectWriter::new();
    built_in_schemas(Dialect::V3, &rows, |name, schema| schemas.value(name, &schema));
    for (kind, custom) in custom_kinds(&rows) {
        schemas.value(&publish::name(kind), &publish::v3(kind, custom, Dialect::V3.references()));
        schemas.value(&publish::list_name(kind), &publish::list(kind, Dialect::V3.references()));
    }
    let mut components = ObjectWriter::new();
    components.text("schemas", &schemas.finish());
    out.text("components", &components.finish());
    Some(out.finish())
}

/// `/openapi/v2`.
pub fn v2(registry: &Registry) -> String {
    let rows: Vec<&KindRef> = registry.iter().collect();
    let mut out = ObjectWriter::new();
    out.value("swagger", &json!("2.0"));
    out.value("info", &json!({"title": "Kubernetes", "version": "v1.36.0"}));
    let mut all_paths = ObjectWriter::new();
    for kind in &rows {
        paths(Dialect::V2, &[*kind]).iter().for_each(|(path, operations)| all_paths.value(path, operations));
    }
    out.text("paths", &all_paths.finish());
    let mut definitions = ObjectWriter::new();
    built_in_schemas(Dialect::V2, &rows, |name, schema| definitions.value(name, &schema));
    for (kind, custom) in custom_kinds(&rows) {
        definitions.text(&publish::name(kind), custom_v2(kind, custom));
        definitions.value(&publish::list_name(kind), &publish::list(kind, Dialect::V2.references()));
    }
    out.text("definitions", &definitions.finish());
    out.finish()
}

/// The v2 schema of a custom kind as JSON, made once.
fn custom_v2<'a>(kind: &Kind, custom: &'a Custom) -> &'a str {
    let make = || publish::v2(kind, custom, Dialect::V2.references()).to_string().into();
    custom.published_v2.get_or_init(make)
}

fn custom_kinds<'a>(rows: &'a [&'a KindRef]) -> impl Iterator<Item = (&'a Kind, &'a Custom)> {
    rows.iter().filter_map(|kind| Some((&***kind, kind.custom.as_deref()?)))
}

/// The media type of [`v2_protobuf`]. Clients write `@v1.0` in its place, which is no valid media type.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Whether an Accept header asks for [`v2_protobuf`].
pub fn accepts_v2_protobuf(accept: &str) -> bool {
    accept.contains("application/com.github.proto-openapi.spec.v2") && accept.contains("+protobuf")
}

/// [`v2`] as protobuf without the paths, for kubectl.
pub fn v2_protobuf(registry: &Registry) -> Vec<u8> {
    let rows: Vec<&KindRef> = registry.iter().collect();
    let mut document = gnostic::Document::new("Kubernetes", "v1.36.0");
    built_in_schemas(Dialect::V2, &rows, |name, schema| document.schema(name, &schema));
    for (kind, custom) in custom_kinds(&rows) {
        let schema = serde_json::from_str(custom_v2(kind, custom)).unwrap_or(Value::Null);
        document.schema(&publish::name(kind), &schema);
        document.schema(&publish::list_name(kind), &publish::list(kind, Dialect::V2.references()));
    }
    document.finish()
}

fn paths(dialect: Dialect, rows: &[&KindRef]) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in rows {
        let scope = if kind.namespaced() { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{}{scope}/{}", root(kind), kind.plural);
        let item = format!("{collection}/{{name}}");
        let (mut on_collection, mut on_item) = (Map::new(), Map::new());
        for verb in kind.verbs {
            let (method, action, operations) = match *verb {
                "create" => ("post", "post", &mut on_collection),
                "list" => ("get", "list", &mut on_collection),
                "deletecollection" => ("delete", "deletecollection", &mut on_collection),
                "get" => ("get", "get", &mut on_item),
                "update" => ("put", "put", &mut on_item),
                "patch" => ("patch", "patch", &mut on_item),
                "delete" => ("delete", "delete", &mut on_item),
                _ => continue,
            };
            operations.insert(method.to_owned(), operation(dialect, kind, action));
        }
        for (path, operations) in [(collection, on_collection), (item, on_item)] {
            if !operations.is_empty() {
                paths.insert(path, Value::Object(operations));
            }
        }
    }
    paths
}

fn operation(dialect: Dialect, kind: &Kind, action: &str) -> Value {
    let reference = json!({"$ref": dialect.reference_to(kind)});
    let ok = match dialect {
        Dialect::V2 => json!({"description": "OK", "schema": reference}),
        Dialect::V3 => json!({"description": "OK", "content": {"application/json": {"schema": reference}}}),
    };
    let parameter = |name: &str| match dialect {
        Dialect::V2 => json!({"name": name, "in": "query", "type": "string", "uniqueItems": true}),
        Dialect::V3 => {
            json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
        }
    };
    let names: &[&str] = match action {
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun"],
        _ => &[],
    };
    json!({
        "operationId": format!("{action}{}{}{}", kind.group, kind.version, kind.kind),
        "parameters": names.iter().map(|name| parameter(name)).collect::<Vec<_>>(),
        "responses": {"200": ok},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.kind, "version": kind.version},
    })
}

/// The schemas of the built-in kinds among the rows, and of all types that any row refers to.
fn built_in_schemas(dialect: Dialect, rows: &[&KindRef], mut write: impl FnMut(&str, Value)) {
    let mut wanted: Vec<&'static str> = rows.iter().map(|kind| kind.schema).collect();
    wanted.extend(META_TYPES);
    let mut done = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if done.insert(name)
            && let Some(found) = named(name)
        {
            found.fields.iter().for_each(|field| collect(field.shape, &mut wanted));
        }
    }
    for found in done.into_iter().filter_map(named) {
        write(&format!("io.k8s.{}", found.name), definition(dialect, found));
    }
}

fn collect(shape: Shape, names: &mut Vec<&'static str>) {
    match shape {
        Shape::Type(name) => names.push(name),
        Shape::List(inner) | Shape::Map(inner) => collect(Shape::of(inner), names),
        Shape::Scalar(_) => {}
    }
}

fn definition(dialect: Dialect, schema: &'static Type) -> Value {
    let mut out = match schema.shape {
        Some(shape) => shape_of(dialect, shape),
        None => {
            let fields = schema.fields.iter();
            let properties: Map<String, Value> =
                fields.map(|field| (field.name.to_owned(), property(dialect, schema, field))).collect();
            let required: Vec<&str> = schema.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
            let mut out = json!({"type": "object", "properties": properties});
            if !required.is_empty() {
                out["required"] = json!(required);
            }
            out
        }
    };
    if let Some(text) = descriptions::of_type(schema.name) {
        out["description"] = text.into();
    }
    if !schema.kinds.is_empty() {
        let kinds = schema.kinds.iter().filter_map(|kind| {
            let mut parts = kind.splitn(3, '/');
            Some(json!({"group": parts.next()?, "version": parts.next()?, "kind": parts.next()?}))
        });
        out["x-kubernetes-group-version-kind"] = kinds.collect();
    }
    out
}

fn property(dialect: Dialect, schema: &Type, field: &'static Field) -> Value {
    let mut out = match (dialect, field.shape) {
        // A reference may have no siblings in OpenAPI 3.0.
        (Dialect::V3, Shape::Type(_)) => json!({"allOf": [shape_of(dialect, field.shape)]}),
        (_, shape) => shape_of(dialect, shape),
    };
    if let Some(kind) = field.list_type() {
        out["x-kubernetes-list-type"] = kind.into();
    }
    let keys: Vec<&str> = field.list_map_keys().collect();
    if !keys.is_empty() {
        out["x-kubernetes-list-map-keys"] = json!(keys);
    }
    if let Some(key) = field.merge_key() {
        out["x-kubernetes-patch-merge-key"] = key.into();
    }
    let strategies: Vec<&str> =
        ["merge", "retainKeys", "replace"].into_iter().filter(|s| field.has_patch_strategy(s)).collect();
    if !strategies.is_empty() {
        out["x-kubernetes-patch-strategy"] = strategies.join(",").into();
    }
    if let Some(kind) = field.map_type() {
        out["x-kubernetes-map-type"] = kind.into();
    }
    if let Some(text) = descriptions::of_field(schema, field.name) {
        out["description"] = text.into();
    }
    let values: Vec<&str> = descriptions::values(schema.name, field.name).collect();
    if !values.is_empty() {
        let listed = if matches!(field.shape, Shape::List(_)) { &mut out["items"] } else { &mut out };
        listed["enum"] = json!(values);
    }
    out
}

fn shape_of(dialect: Dialect, shape: Shape) -> Value {
    use schema::Scalar;
    match shape {
        Shape::Type(name) => json!({"$ref": dialect.reference(name)}),
        Shape::List(inner) => json!({"type": "array", "items": shape_of(dialect, Shape::of(inner))}),
        Shape::Map(inner) => {
            json!({"type": "object", "additionalProperties": shape_of(dialect, Shape::of(inner))})
        }
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => json!({"type": "string"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Number => json!({"type": "number", "format": "double"}),
            Scalar::Boolean => json!({"type": "boolean"}),
            Scalar::Time => json!({"type": "string", "format": "date-time"}),
            Scalar::Base64 => json!({"type": "string", "format": "byte"}),
            Scalar::Quantity if dialect == Dialect::V3 => {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }
            Scalar::IntOrString if dialect == Dialect::V3 => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            Scalar::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Scalar::Quantity => json!({"type": "string"}),
            Scalar::Object => json!({"type": "object"}),
            Scalar::Any => json!({}),
        },
    }
}

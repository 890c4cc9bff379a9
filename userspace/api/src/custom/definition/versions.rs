//! Validates `spec.versions`: names, storage, schemas, subresources, columns, selectable fields.

use serde_json::Value;

use super::field_path::field_at;
use super::schema::validate_schema;
use crate::custom::schema::{Shape, Structural};
use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problem};
use crate::value::{items, text};

/// Number of selectable fields of a version.
const MAX_SELECTABLE_FIELDS: usize = 8;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let versions: Vec<&Value> = items(spec, "versions").collect();
    let at = path.child("versions");
    for (i, version) in versions.iter().enumerate() {
        if let Some(problem) = name_problem(text(&version["name"]), NameForm::Label1035) {
            errors.invalid(&at.index(i).child("name"), &version["name"], problem);
        }
        if version["schema"]["openAPIV3Schema"].is_null() {
            errors.required(&at.index(i).child("schema").child("openAPIV3Schema"), "");
        }
        validate_deprecation(version, &at.index(i).child("deprecationWarning"), errors);
    }
    let names: std::collections::HashSet<&str> =
        versions.iter().map(|version| text(&version["name"])).collect();
    if names.len() != versions.len() {
        errors.invalid(&at, &spec["versions"], "must contain unique version names");
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        errors.invalid(&at, &spec["versions"], "must have exactly one version marked as storage version");
    }
    let any_status = versions.iter().any(|version| version["subresources"]["status"].is_object());
    for (version, schema) in validation_paths(&versions, "schema", path, "validation") {
        let status =
            if versions.len() == 1 { any_status } else { version["subresources"]["status"].is_object() };
        let schema_path = schema.child("openAPIV3Schema");
        let source = &version["schema"]["openAPIV3Schema"];
        if source.is_object() {
            validate_schema(source, &schema_path, status, errors);
        }
    }
    for (version, at) in validation_paths(&versions, "subresources", path, "subresources") {
        validate_scale(&version["subresources"]["scale"], &at, errors);
    }
    for (version, at) in
        validation_paths(&versions, "additionalPrinterColumns", path, "additionalPrinterColumns")
    {
        for (i, column) in items(version, "additionalPrinterColumns").enumerate() {
            validate_column(column, &at.index(i), errors);
        }
    }
    for (version, at) in validation_paths(&versions, "selectableFields", path, "selectableFields") {
        validate_selectable(version, &at, errors);
    }
}

/// The paths where upstream validates a part of the versions: once at the top if all versions agree, else in each.
fn validation_paths<'a>(
    versions: &[&'a Value],
    part: &str,
    path: &Path,
    top: &str,
) -> Vec<(&'a Value, Path)> {
    let same = versions.iter().all(|version| version[part] == versions[0][part]);
    match versions.first() {
        Some(first) if same => vec![(*first, path.child(top))],
        _ => {
            let at = |i: usize| path.child("versions").index(i).child(part);
            versions.iter().enumerate().map(|(i, version)| (*version, at(i))).collect()
        }
    }
}

fn validate_deprecation(version: &Value, path: &Path, errors: &mut Errors) {
    let value = &version["deprecationWarning"];
    let Some(warning) = value.as_str() else { return };
    if version["deprecated"] != true {
        return errors.invalid(path, value, "can only be set for deprecated versions");
    }
    if warning.len() > 256 {
        errors.invalid(path, value, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(path, value, "must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        );
        errors.invalid(path, value, &why);
    }
}

fn validate_scale(scale: &Value, path: &Path, errors: &mut Errors) {
    if !scale.is_object() {
        return;
    }
    for (name, below) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (found, at) = (&scale[name], path.child(&format!("scale.{name}")));
        if text(found).is_empty() {
            errors.required(&at, "");
        } else if simple_path(found, &at, errors) && !text(found).starts_with(below) {
            let part = below.trim_end_matches('.');
            errors.invalid(&at, found, &format!("should be a json path under {part}"));
        }
    }
    let (selector, at) = (&scale["labelSelectorPath"], path.child("scale.labelSelectorPath"));
    if !text(selector).is_empty()
        && simple_path(selector, &at, errors)
        && ![".spec.", ".status."].iter().any(|below| text(selector).starts_with(below))
    {
        errors.invalid(&at, selector, "should be a json path under either .spec or .status");
    }
}

fn simple_path(found: &Value, path: &Path, errors: &mut Errors) -> bool {
    let valid = text(found).starts_with('.');
    if !valid {
        errors.invalid(path, found, "must be a simple json path starting with .");
    }
    valid
}

fn validate_column(column: &Value, path: &Path, errors: &mut Errors) {
    if text(&column["name"]).is_empty() {
        errors.required(&path.child("name"), "");
    }
    let kinds = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(&column["type"]) {
        "" => errors.required(&path.child("type"), &kinds),
        kind if !COLUMN_TYPES.contains(&kind) => errors.invalid(&path.child("type"), &column["type"], &kinds),
        _ => {}
    }
    let format = text(&column["format"]);
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let formats = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.invalid(&path.child("format"), &column["format"], &formats);
    }
    match text(&column["jsonPath"]) {
        "" => errors.required(&path.child("JSONPath"), ""),
        _ => drop(simple_path(&column["jsonPath"], &path.child("JSONPath"), errors)),
    }
}

fn validate_selectable(version: &Value, path: &Path, errors: &mut Errors) {
    let schema = Structural::parse(&version["schema"]["openAPIV3Schema"]);
    let mut seen = std::collections::HashSet::new();
    for (i, field) in items(version, "selectableFields").enumerate() {
        let (found, at) = (&field["jsonPath"], path.index(i).child("jsonPath"));
        if text(found).is_empty() {
            errors.required(&at, "");
            continue;
        }
        let field_schema = match field_at(&schema, text(found), false) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&at, found, &format!("is an invalid path: {why}"));
                continue;
            }
        };
        if text(found).starts_with(".metadata") {
            errors.invalid(&at, found, "must not point to fields in metadata");
        }
        if !matches!(field_schema.shape, Shape::String | Shape::Boolean | Shape::Integer) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(&at, found, why);
        }
        if !seen.insert(text(found)) {
            errors.duplicate(&at, found);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        errors.too_many(path, seen.len(), MAX_SELECTABLE_FIELDS);
    }
}

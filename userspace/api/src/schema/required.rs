//! Required fields that are missing in an object.

use serde_json::Value;

use super::facts::{Shape, named};
use super::zero::has_zero;
use crate::field::{Errors, Path};

/// Reports missing required fields outside metadata and status. Only structs, strings and times are reported: a list, map, number
/// or boolean has a usable zero in upstream's types, and the kinds' own validation covers the exceptions.
pub(crate) fn check_required(type_name: &str, object: &Value, errors: &mut Errors) {
    let Some(schema) = named(type_name) else { return };
    for field in schema.fields.iter().filter(|field| !matches!(field.name, "metadata" | "status")) {
        check_required_value(
            field.shape,
            field.required,
            &object[field.name],
            &Path::new(field.name),
            errors,
        );
    }
}

fn check_required_value(shape: Shape, is_required: bool, value: &Value, path: &Path, errors: &mut Errors) {
    if value.is_null() {
        if is_required && !has_zero(shape) {
            errors.required(path, "");
        }
        return;
    }
    match shape {
        Shape::Type(name) => {
            for field in named(name).map_or(&[][..], |found| &found.fields) {
                check_required_value(
                    field.shape,
                    field.required,
                    &value[field.name],
                    &path.child(field.name),
                    errors,
                );
            }
        }
        Shape::List(inner) => {
            for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                check_required_value(Shape::of(inner), false, item, &path.index(i), errors);
            }
        }
        Shape::Map(inner) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                check_required_value(Shape::of(inner), false, item, &path.key(key), errors);
            }
        }
        Shape::Scalar(_) => {}
    }
}

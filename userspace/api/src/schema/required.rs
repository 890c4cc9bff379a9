//! Required fields: the missing ones of an object, and the zeros of those that upstream's types always have.

use serde_json::Value;

use super::facts::{Scalar, Shape, named};
use crate::field::{Errors, Path};

/// The required numbers and booleans of the type of `field`, each with its zero. `schema` names the type that has the
/// field.
pub(crate) fn zeros(schema: &str, field: &str) -> impl Iterator<Item = (&'static str, Value)> {
    let shape = named(schema).and_then(|found| found.field(field)).map(|field| field.shape);
    let found = match shape {
        Some(Shape::Type(name)) => named(name),
        _ => None,
    };
    let fields = found.into_iter().flat_map(|found| &found.fields).filter(|field| field.required);
    fields.filter_map(|field| match field.shape {
        Shape::Scalar(Scalar::Int32 | Scalar::Int64) => Some((field.name, 0.into())),
        Shape::Scalar(Scalar::Boolean) => Some((field.name, false.into())),
        _ => None,
    })
}

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

/// Whether upstream's types have a usable zero of this shape.
fn has_zero(shape: Shape) -> bool {
    match shape {
        Shape::Type(name) => named(name).and_then(|found| found.shape).is_some_and(has_zero),
        Shape::Scalar(scalar) => !matches!(scalar, Scalar::String | Scalar::Time),
        Shape::List(_) | Shape::Map(_) => true,
    }
}

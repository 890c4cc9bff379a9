//! What is accepted is canonical: nothing that is taken in again changes, and two spellings of one value become one.

use serde_json::{Map, Value, json};
use skep_api::schema::{self, Field, Scalar, Shape, Type, Zero, named};
use skep_api::{Kind, kinds};

use crate::generate::Choices;
use crate::{accepted, fill_type};

/// The object as a create prepares it.
fn prepared(kind: &Kind, mut object: Value) -> Value {
    fill_type(&mut object, &kind.api_version(), &kind.kind);
    kind.complete_new(&mut object);
    object
}

#[test]
fn what_is_prepared_is_canonical() {
    let mut failures = Vec::new();
    for kind in kinds() {
        for (sent, checked) in accepted(kind.schema) {
            let once = prepared(kind, checked);
            if lacks_required(kind, &once) {
                continue;
            }
            let mut again = once.clone();
            let problems = schema::check(kind.schema, &mut again);
            if again != once || !problems.is_empty() {
                failures.push(format!(
                    "{}: {problems:?}\n  sent {sent}\n  once {once}\n  again {again}",
                    kind.schema
                ));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Defaults of an object that is refused anyway may leave traces of the fields that it lacks.
fn lacks_required(kind: &Kind, object: &Value) -> bool {
    let mut named = object.clone();
    named["metadata"]["name"] = "a".into();
    named["metadata"]["namespace"] = "a".into();
    kind.validate_create(&named).0.iter().any(|error| error.reason == "FieldValueRequired")
}

#[test]
fn two_spellings_of_one_value_become_the_same() {
    let mut failures = Vec::new();
    for kind in kinds() {
        for (seed, (_, one)) in accepted(kind.schema).enumerate() {
            let mut other = one.clone();
            let root = Shape::Type(kind.schema);
            respell(root, &mut other, &mut Choices(seed as u64));
            let spelled = other.clone();
            let problems = schema::check(kind.schema, &mut other);
            let (one, other) = (prepared(kind, one), prepared(kind, other));
            if one != other || !problems.is_empty() {
                failures.push(format!(
                    "{}: {problems:?}\n  spelled {spelled}\n  one {one}\n  other {other}",
                    kind.schema
                ));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_an_older_version_stored_is_restored() {
    let mut failures = Vec::new();
    for kind in kinds() {
        for (seed, (_, one)) in accepted(kind.schema).enumerate() {
            let new = prepared(kind, one);
            if lacks_required(kind, &new) {
                continue;
            }
            let mut old = new.clone();
            respell(Shape::Type(kind.schema), &mut old, &mut Choices(seed as u64));
            kind.restore(&mut old);
            if old != new {
                failures.push(format!("{}:\n  old {old}\n  new {new}", kind.schema));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Writes a canonical value in another way that means the same.
fn respell(shape: Shape, value: &mut Value, choices: &mut Choices) {
    match (shape, value) {
        (Shape::Type(name), value) => match named(name) {
            Some(Type { shape: Some(Shape::Scalar(Scalar::Time)), name, .. }) => {
                respell_time(value, name.ends_with("MicroTime"));
            }
            Some(Type { shape: Some(Shape::Scalar(scalar)), .. }) => respell_scalar(*scalar, value),
            Some(Type { shape: Some(_), .. }) | None => {}
            Some(schema) => {
                if let Value::Object(fields) = value {
                    respell_fields(schema, fields, choices);
                }
            }
        },
        (Shape::List(inner), Value::Array(items)) => {
            items.iter_mut().for_each(|item| respell(Shape::of(inner), item, choices));
        }
        (Shape::Map(inner), Value::Object(fields)) => {
            fields.values_mut().for_each(|item| respell(Shape::of(inner), item, choices));
        }
        (Shape::Scalar(scalar), value) => respell_scalar(scalar, value),
        _ => {}
    }
}

/// An empty value of these means something else than none: it is refused.
const REFUSED_EMPTY: [(&str, &str); 2] =
    [("api.autoscaling.v2.HPAScalingRules", "policies"), ("api.core.v1.PersistentVolumeSpec", "capacity")];

fn respell_fields(schema: &'static Type, fields: &mut Map<String, Value>, choices: &mut Choices) {
    for field in &schema.fields {
        match fields.get_mut(field.name) {
            None if REFUSED_EMPTY.contains(&(schema.name, field.name)) => {}
            None if choices.once_in(3) => {
                if let Some(nothing) = nothing(field, choices) {
                    fields.insert(field.name.to_owned(), nothing);
                }
            }
            None => {}
            // The zeros that are always written.
            Some(Value::Null) if choices.once_in(2) => drop(fields.remove(field.name)),
            Some(value) => respell(field.shape, value, choices),
        }
    }
    let mut reversed: Vec<_> = std::mem::take(fields).into_iter().collect();
    reversed.reverse();
    fields.extend(reversed);
}

/// What stands for an absent field.
fn nothing(field: &Field, choices: &mut Choices) -> Option<Value> {
    let shape = match field.shape {
        Shape::Type(name) => named(name)?.shape?,
        shape => shape,
    };
    match (field.zero, shape) {
        _ if choices.once_in(2) => Some(Value::Null),
        (Zero::Dropped, Shape::List(_)) => Some(json!([])),
        (Zero::Dropped, Shape::Map(_)) => Some(json!({})),
        (Zero::Dropped, Shape::Scalar(Scalar::String | Scalar::Base64)) => Some(json!("")),
        (Zero::Dropped, Shape::Scalar(Scalar::Int32 | Scalar::Int64)) => Some(json!(0)),
        (Zero::Dropped, Shape::Scalar(Scalar::Boolean)) => Some(json!(false)),
        _ => Some(Value::Null),
    }
}

fn respell_scalar(scalar: Scalar, value: &mut Value) {
    let other = match (scalar, value.as_str()) {
        (Scalar::Quantity, Some("1")) => json!(1),
        (Scalar::Quantity, Some("2")) => json!("2000m"),
        (Scalar::Quantity, Some("3")) => json!(" 3.0 "),
        (Scalar::Quantity, Some("500m")) => json!(".5"),
        (Scalar::Quantity, Some("1536Mi")) => json!("1572864Ki"),
        (Scalar::Base64, Some(text)) => json!(format!("\n{text}\r\n")),
        (Scalar::Time, Some(_)) => return respell_time(value, false),
        (Scalar::Int32 | Scalar::Int64, None) if *value == json!(0) => json!(-0.0),
        _ => return,
    };
    *value = other;
}

/// An offset of zero hours; a fraction of a second where it is dropped.
fn respell_time(value: &mut Value, is_micro: bool) {
    if let Some(time) = value.as_str().and_then(|text| text.strip_suffix('Z')) {
        let fraction = if is_micro { "" } else { ".25" };
        *value = format!("{time}{fraction}+00:00").into();
    }
}

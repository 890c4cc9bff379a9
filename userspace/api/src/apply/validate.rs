//! Checks that a configuration has its type, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::merge_type::{Atom, Declared, MergeType, ScalarForm};
use super::path_element::PathElement;

/// Parts of a configuration that have another type, each with its path.
#[derive(Debug, Default)]
pub(super) struct TypeErrors(Vec<(String, String)>);

impl TypeErrors {
    fn one(why: String) -> TypeErrors {
        TypeErrors(vec![(String::new(), why)])
    }

    /// The path grows on the way up, so that a valid configuration builds none.
    fn append_below(&mut self, part: TypeErrors, element: impl FnOnce() -> String) {
        if part.0.is_empty() {
            return;
        }
        let element = element();
        self.0.extend(part.0.into_iter().map(|(path, why)| ([element.as_str(), &path].concat(), why)));
    }
}

impl std::fmt::Display for TypeErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |(path, why): &(String, String)| match path.as_str() {
            "" => why.clone(),
            path => format!("{path}: {why}"),
        };
        match self.0.as_slice() {
            [one] => f.write_str(&line(one)),
            all => {
                f.write_str("errors:")?;
                all.iter().try_for_each(|one| write!(f, "\n  {}", line(one)))
            }
        }
    }
}

/// Checks that a configuration has its type: its fields are known, its list items have distinct keys.
pub(super) fn validate(ty: MergeType<'_>, value: &Value) -> Result<(), TypeErrors> {
    let errors = type_errors(ty, value);
    if errors.0.is_empty() { Ok(()) } else { Err(errors) }
}

fn type_errors(ty: MergeType<'_>, value: &Value) -> TypeErrors {
    match (ty.atom(Some(value)), value) {
        (_, Value::Null) => TypeErrors::default(),
        (Atom::Map { .. }, Value::Object(entries)) => {
            let mut errors = TypeErrors::default();
            for (name, value) in entries {
                let (inner, declared) = ty.child(name);
                let below = || PathElement::field(name).to_string();
                if declared == Declared::Not {
                    // As upstream, the first unknown field ends the check of its map.
                    let unknown = TypeErrors::one("field not declared in schema".to_owned());
                    errors.append_below(unknown, below);
                    break;
                }
                errors.append_below(type_errors(inner, value), below);
            }
            errors
        }
        (Atom::Map { .. }, other) => TypeErrors::one(format!("expected map, got &{{{}}}", Plain(other))),
        (Atom::List { atomic }, Value::Array(items)) => item_errors(ty, items, atomic),
        (Atom::List { .. }, other) => TypeErrors::one(format!("expected list, got &{{{}}}", Plain(other))),
        (Atom::Scalar(form), value) => {
            scalar_error(form, value).map_or_else(TypeErrors::default, TypeErrors::one)
        }
    }
}

fn item_errors(ty: MergeType<'_>, items: &[Value], atomic: bool) -> TypeErrors {
    let mut errors = TypeErrors::default();
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        if atomic {
            errors.append_below(type_errors(ty.item(), item), || format!("[{i}]"));
            continue;
        }
        let element = match ty.path_element(item) {
            Ok(element) => element,
            Err(why) => {
                errors.0.push((String::new(), format!("element {i}: {why}")));
                return errors;
            }
        };
        if seen.contains(&element) {
            errors.0.push((String::new(), format!("duplicate entries for key {element}")));
        }
        errors.append_below(type_errors(ty.item(), item), || element.to_string());
        seen.insert(element);
    }
    errors
}

fn scalar_error(form: ScalarForm, value: &Value) -> Option<String> {
    match (form, value) {
        (ScalarForm::String, Value::String(_))
        | (ScalarForm::Numeric, Value::Number(_))
        | (ScalarForm::Boolean, Value::Bool(_))
        | (ScalarForm::Untyped, Value::String(_) | Value::Number(_) | Value::Bool(_)) => None,
        (ScalarForm::String, other) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", Syntax(other)))
        }
        (ScalarForm::Numeric, other) => {
            Some(format!("expected numeric (int or float), got {}", type_name(other)))
        }
        (ScalarForm::Boolean, other) => Some(format!("expected boolean, got &{{{}}}", Plain(other))),
        (ScalarForm::Untyped, other) => Some(format!("expected any scalar, got &{{{}}}", Plain(other))),
    }
}

/// The Go type of a decoded JSON value.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%v` writes it: maps by key.
struct Plain<'a>(&'a Value);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::String(text) => f.write_str(text),
            Value::Array(items) => {
                f.write_str("[")?;
                separated(f, " ", items, |f, item| write!(f, "{}", Plain(item)))?;
                f.write_str("]")
            }
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(name, _)| name.as_str());
                f.write_str("map[")?;
                separated(f, " ", &entries, |f, (name, value)| write!(f, "{name}:{}", Plain(value)))?;
                f.write_str("]")
            }
            other => write!(f, "{other}"),
        }
    }
}

/// A value as Go's `%#v` writes it.
struct Syntax<'a>(&'a Value);

impl std::fmt::Display for Syntax<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::Null => f.write_str("interface {}(nil)"),
            Value::String(text) => write!(f, "{text:?}"),
            Value::Array(items) => {
                f.write_str("[]interface {}{")?;
                separated(f, ", ", items, |f, item| write!(f, "{}", Syntax(item)))?;
                f.write_str("}")
            }
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(name, _)| name.as_str());
                f.write_str("map[string]interface {}{")?;
                separated(f, ", ", &entries, |f, (name, value)| write!(f, "{name:?}:{}", Syntax(value)))?;
                f.write_str("}")
            }
            other => write!(f, "{other}"),
        }
    }
}

fn separated<T>(
    f: &mut std::fmt::Formatter<'_>,
    separator: &str,
    items: &[T],
    write: impl Fn(&mut std::fmt::Formatter<'_>, &T) -> std::fmt::Result,
) -> std::fmt::Result {
    for (i, item) in items.iter().enumerate() {
        f.write_str(if i == 0 { "" } else { separator })?;
        write(f, item)?;
    }
    Ok(())
}

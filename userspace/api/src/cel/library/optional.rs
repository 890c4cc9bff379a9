//! Optional values.

use super::args::items;
use crate::cel::budget::CelError;
use crate::cel::functions::Table;
use crate::cel::syntax::op;
use crate::cel::types::Type;
use crate::cel::values::{Value, failed, no_overload};

pub(super) fn declare(table: &mut Table) {
    let (a, b) = (Type::Variable(0), Type::Variable(1));
    let optional = || Type::optional(a.clone());
    let list = || Type::list(a.clone());
    table.global("optional.of", "optional_of", [a.clone()], optional(), |args| match args {
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    });
    table.global("optional.ofNonZeroValue", "optional_ofNonZeroValue", [a.clone()], optional(), |args| {
        match args {
            [value] if is_zero(value) => Ok(Value::Optional(None)),
            [value] => Ok(Value::some(value.clone())),
            _ => no_overload(),
        }
    });
    table.global("optional.none", "optional_none", [], optional(), |_| Ok(Value::Optional(None)));
    table.member("value", "optional_value", [optional()], a.clone(), |args| match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => failed("optional.none() dereference"),
        _ => no_overload(),
    });
    table.member("hasValue", "optional_hasValue", [optional()], Type::Bool, |args| match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => no_overload(),
    });
    table.special("or", "optional_or_optional", true, [optional(), optional()], optional());
    table.special("orValue", "optional_orValue_value", true, [optional(), a.clone()], a.clone());
    let select = [Type::Dyn, Type::String];
    table.special(op::OPTIONAL_SELECT, "select_optional_field", false, &select, optional());
    let map = || Type::map(a.clone(), b.clone());
    let value = || Type::optional(b.clone());
    for (id, of, at, result) in [
        ("list_optindex_optional_int", list(), Type::Int, optional()),
        ("optional_list_optindex_optional_int", Type::optional(list()), Type::Int, optional()),
        ("map_optindex_optional_value", map(), a.clone(), value()),
        ("optional_map_optindex_optional_value", Type::optional(map()), a.clone(), value()),
    ] {
        table.special(op::OPTIONAL_INDEX, id, false, [of, at], result);
    }
    table.member("last", "list_last", [list()], optional(), |args| end(args, true));
    table.member("first", "list_first", [list()], optional(), |args| end(args, false));
    let optionals = || Type::list(optional());
    table.global("optional.unwrap", "optional_unwrap", [optionals()], list(), unwrapped);
    table.member("unwrapOpt", "optional_unwrapOpt", [optionals()], list(), unwrapped);
}

fn end<'a>(args: &[Value<'a>], last: bool) -> Result<Value<'a>, CelError> {
    let Some(Value::List(list)) = args.first() else { return no_overload() };
    let at = if last { list.len().saturating_sub(1) } else { 0 };
    list.get(at).map_or(Ok(Value::Optional(None)), |found| found.map(Value::some))
}

fn unwrapped<'a>(args: &[Value<'a>]) -> Result<Value<'a>, CelError> {
    let mut out = Vec::new();
    for item in items(args, 0)? {
        match item {
            Value::Optional(Some(value)) => out.push((*value).clone()),
            Value::Optional(None) => {}
            other => return failed(format!("value {} is not optional", other.type_name())),
        }
    }
    Ok(Value::list(out))
}

/// Whether a value is the zero value of its type.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Optional(None) => true,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(span) => *span == 0,
        Value::Timestamp(at) => at.is_zero(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.len() == 0,
        _ => false,
    }
}

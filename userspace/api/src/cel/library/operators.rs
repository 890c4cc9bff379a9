//! Operators: arithmetic, comparison, membership, and the logic that the evaluation itself computes.

use std::cmp::Ordering;
use std::sync::Arc;

use super::args::bounded_text;
use super::lists;
use crate::cel::budget::CelError;
use crate::cel::functions::Table;
use crate::cel::syntax::op;
use crate::cel::types::Type;
use crate::cel::values::{Key, Value, failed, no_overload};

type Made<'a> = Result<Value<'a>, CelError>;

pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let a = Type::Variable(0);
    let list = || Type::list(a.clone());
    table.special(op::CONDITIONAL, "conditional", false, [Bool, a.clone(), a.clone()], a.clone());
    table.special(op::AND, "logical_and", false, [Bool, Bool], Bool);
    table.special(op::OR, "logical_or", false, [Bool, Bool], Bool);
    table.special(op::NOT_STRICTLY_FALSE, "not_strictly_false", false, [Bool], Bool);
    table.global(op::NOT, "logical_not", [Bool], Bool, |args| match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => no_overload(),
    });
    table.global(op::EQUALS, "equals", [a.clone(), a.clone()], Bool, |args| match args {
        [a, b] => Ok(Value::Bool(a.equals(b)?)),
        _ => no_overload(),
    });
    table.global(op::NOT_EQUALS, "not_equals", [a.clone(), a.clone()], Bool, |args| match args {
        [a, b] => Ok(Value::Bool(!a.equals(b)?)),
        _ => no_overload(),
    });
    for (id, of) in [("add_bytes", Bytes), ("add_double", Double), ("add_duration_duration", Duration)] {
        table.global(op::ADD, id, [of.clone(), of.clone()], of, binary_add);
    }
    table.global(op::ADD, "add_duration_timestamp", [Duration, Timestamp], Timestamp, binary_add);
    table.global(op::ADD, "add_timestamp_duration", [Timestamp, Duration], Timestamp, binary_add);
    table.global(op::ADD, "add_int64", [Int, Int], Int, binary_add);
    table.global(op::ADD, "add_list", [list(), list()], list(), binary_add);
    table.global(op::ADD, "add_string", [String, String], String, binary_add);
    table.global(op::ADD, "add_uint64", [Uint, Uint], Uint, binary_add);
    for (id, of) in [("divide_double", Double), ("divide_int64", Int), ("divide_uint64", Uint)] {
        table.global(op::DIVIDE, id, [of.clone(), of.clone()], of, divide);
    }
    for (id, of) in [("modulo_int64", Int), ("modulo_uint64", Uint)] {
        table.global(op::MODULO, id, [of.clone(), of.clone()], of, modulo);
    }
    for (id, of) in [("multiply_double", Double), ("multiply_int64", Int), ("multiply_uint64", Uint)] {
        table.global(op::MULTIPLY, id, [of.clone(), of.clone()], of, multiply);
    }
    for (id, of) in [("negate_double", Double), ("negate_int64", Int)] {
        table.global(op::NEGATE, id, [of.clone()], of, |args| match args {
            [Value::Int(value)] => value.checked_neg().map_or_else(overflow, |value| Ok(Value::Int(value))),
            [Value::Double(value)] => Ok(Value::Double(-value)),
            _ => no_overload(),
        });
    }
    for (id, a, b, result) in [
        ("subtract_double", Double, Double, Double),
        ("subtract_duration_duration", Duration, Duration, Duration),
        ("subtract_int64", Int, Int, Int),
        ("subtract_timestamp_duration", Timestamp, Duration, Timestamp),
        ("subtract_timestamp_timestamp", Timestamp, Timestamp, Duration),
        ("subtract_uint64", Uint, Uint, Uint),
    ] {
        table.global(op::SUBTRACT, id, [a, b], result, subtract);
    }
    declare_order(table);
    declare_items(table);
}

fn declare_items(table: &mut Table) {
    use Type::{Bool, Bytes, Int, String};
    let (a, b) = (Type::Variable(0), Type::Variable(1));
    let list = || Type::list(a.clone());
    let map = || Type::map(a.clone(), b.clone());
    table.global(op::INDEX, "index_list", [list(), Int], a.clone(), index);
    table.global(op::INDEX, "index_map", [map(), a.clone()], b.clone(), index);
    let optional = || Type::optional(a.clone());
    table.global(op::INDEX, "optional_list_index_int", [Type::optional(list()), Int], optional(), index);
    let value = || Type::optional(b.clone());
    table.global(op::INDEX, "optional_map_index_value", [Type::optional(map()), a.clone()], value(), index);
    table.special(op::MAP_INSERT, "@mapInsert_map_key_value", false, [map(), a.clone(), b.clone()], map());
    table.special(op::MAP_INSERT, "@mapInsert_map_map", false, [map(), map()], map());
    table.global(op::IN, "in_list", [a.clone(), list()], Bool, contained);
    table.global(op::IN, "in_map", [a.clone(), map()], Bool, contained);
    for (member, global, of) in [
        ("bytes_size", "size_bytes", Bytes),
        ("list_size", "size_list", list()),
        ("map_size", "size_map", map()),
        ("string_size", "size_string", String),
    ] {
        table.global("size", global, [of.clone()], Int, size);
        table.member("size", member, [of], Int, size);
    }
}

/// A comparison, the overloads for each pair of operands, and the orders that it accepts.
type Comparison = (&'static str, [&'static str; 14], fn(Ordering) -> bool);

const ORDERS: [Comparison; 4] = [
    (
        op::LESS,
        [
            "less_bool",
            "less_int64",
            "less_int64_double",
            "less_int64_uint64",
            "less_uint64",
            "less_uint64_double",
            "less_uint64_int64",
            "less_double",
            "less_double_int64",
            "less_double_uint64",
            "less_string",
            "less_bytes",
            "less_timestamp",
            "less_duration",
        ],
        Ordering::is_lt,
    ),
    (
        op::LESS_EQUALS,
        [
            "less_equals_bool",
            "less_equals_int64",
            "less_equals_int64_double",
            "less_equals_int64_uint64",
            "less_equals_uint64",
            "less_equals_uint64_double",
            "less_equals_uint64_int64",
            "less_equals_double",
            "less_equals_double_int64",
            "less_equals_double_uint64",
            "less_equals_string",
            "less_equals_bytes",
            "less_equals_timestamp",
            "less_equals_duration",
        ],
        Ordering::is_le,
    ),
    (
        op::GREATER,
        [
            "greater_bool",
            "greater_int64",
            "greater_int64_double",
            "greater_int64_uint64",
            "greater_uint64",
            "greater_uint64_double",
            "greater_uint64_int64",
            "greater_double",
            "greater_double_int64",
            "greater_double_uint64",
            "greater_string",
            "greater_bytes",
            "greater_timestamp",
            "greater_duration",
        ],
        Ordering::is_gt,
    ),
    (
        op::GREATER_EQUALS,
        [
            "greater_equals_bool",
            "greater_equals_int64",
            "greater_equals_int64_double",
            "greater_equals_int64_uint64",
            "greater_equals_uint64",
            "greater_equals_uint64_double",
            "greater_equals_uint64_int64",
            "greater_equals_double",
            "greater_equals_double_int64",
            "greater_equals_double_uint64",
            "greater_equals_string",
            "greater_equals_bytes",
            "greater_equals_timestamp",
            "greater_equals_duration",
        ],
        Ordering::is_ge,
    ),
];

fn declare_order(table: &mut Table) {
    use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let operands = [
        (Bool, Bool),
        (Int, Int),
        (Int, Double),
        (Int, Uint),
        (Uint, Uint),
        (Uint, Double),
        (Uint, Int),
        (Double, Double),
        (Double, Int),
        (Double, Uint),
        (String, String),
        (Bytes, Bytes),
        (Timestamp, Timestamp),
        (Duration, Duration),
    ];
    for (function, ids, _) in ORDERS {
        let call = match function {
            op::LESS => less,
            op::LESS_EQUALS => less_equals,
            op::GREATER => greater,
            _ => greater_equals,
        };
        for (id, (a, b)) in ids.into_iter().zip(operands.clone()) {
            table.global(function, id, [a, b], Bool, call);
        }
    }
}

fn ordered<'a>(args: &[Value<'a>], test: fn(Ordering) -> bool) -> Made<'a> {
    match args {
        [a, b] => Ok(Value::Bool(a.compare(b)?.is_some_and(test))),
        _ => no_overload(),
    }
}

fn less<'a>(args: &[Value<'a>]) -> Made<'a> {
    ordered(args, ORDERS[0].2)
}

fn less_equals<'a>(args: &[Value<'a>]) -> Made<'a> {
    ordered(args, ORDERS[1].2)
}

fn greater<'a>(args: &[Value<'a>]) -> Made<'a> {
    ordered(args, ORDERS[2].2)
}

fn greater_equals<'a>(args: &[Value<'a>]) -> Made<'a> {
    ordered(args, ORDERS[3].2)
}

fn overflow<'a>() -> Made<'a> {
    failed("integer overflow")
}

fn unsigned_overflow<'a>() -> Made<'a> {
    failed("unsigned integer overflow")
}

fn binary_add<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [a, b] => add(a, b),
        _ => no_overload(),
    }
}

/// The sum, or both texts, bytes or lists joined.
pub(super) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Made<'a> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map_or_else(overflow, |sum| Ok(Value::Int(sum))),
        (Value::Uint(a), Value::Uint(b)) => {
            a.checked_add(*b).map_or_else(unsigned_overflow, |sum| Ok(Value::Uint(sum)))
        }
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            bounded_text(a.len().saturating_add(b.len()))?;
            Ok(Value::text(format!("{a}{b}")))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            bounded_text(a.len().saturating_add(b.len()))?;
            Ok(Value::Bytes(Arc::from([&**a, &**b].concat())))
        }
        (Value::List(a), Value::List(b)) => lists::join(a, b),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(*b).map_or_else(overflow, |sum| Ok(Value::Duration(sum)))
        }
        (Value::Timestamp(at), Value::Duration(span)) | (Value::Duration(span), Value::Timestamp(at)) => {
            super::time::later(*at, *span)
        }
        _ => no_overload(),
    }
}

fn subtract<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => {
            a.checked_sub(*b).map_or_else(overflow, |left| Ok(Value::Int(left)))
        }
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_sub(*b).map_or_else(unsigned_overflow, |left| Ok(Value::Uint(left)))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_sub(*b).map_or_else(overflow, |left| Ok(Value::Duration(left)))
        }
        [Value::Timestamp(at), Value::Duration(span)] => match span.checked_neg() {
            Some(span) => super::time::later(*at, span),
            None => overflow(),
        },
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            let nanos = a.nanos() - b.nanos();
            i64::try_from(nanos).map_or_else(|_| overflow(), |nanos| Ok(Value::Duration(nanos)))
        }
        _ => no_overload(),
    }
}

fn multiply<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => {
            a.checked_mul(*b).map_or_else(overflow, |made| Ok(Value::Int(made)))
        }
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_mul(*b).map_or_else(unsigned_overflow, |made| Ok(Value::Uint(made)))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => no_overload(),
    }
}

fn divide<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => failed("division by zero"),
        [Value::Int(a), Value::Int(b)] => {
            a.checked_div(*b).map_or_else(overflow, |made| Ok(Value::Int(made)))
        }
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => no_overload(),
    }
}

fn modulo<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => failed("modulus by zero"),
        [Value::Int(a), Value::Int(b)] => {
            a.checked_rem(*b).map_or_else(overflow, |made| Ok(Value::Int(made)))
        }
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => no_overload(),
    }
}

fn contained<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [value, Value::List(list)] => {
            for item in list.items()? {
                if item.equals(value)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [key, Value::Map(map)] => match map.get(key) {
            Some(Err(error)) => Err(error),
            found => Ok(Value::Bool(found.is_some())),
        },
        _ => no_overload(),
    }
}

fn size<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [value] => i64::try_from(value.size()).map_or_else(|_| overflow(), |size| Ok(Value::Int(size))),
        _ => no_overload(),
    }
}

fn index<'a>(args: &[Value<'a>]) -> Made<'a> {
    match args {
        [Value::Optional(None), _] => Ok(Value::Optional(None)),
        [Value::Optional(Some(inner)), at] => match item(inner, at) {
            Ok(found) => Ok(Value::some(found)),
            Err(error) if is_index_error(&error) => Ok(Value::Optional(None)),
            Err(error) => Err(error),
        },
        [operand, at] => item(operand, at),
        _ => no_overload(),
    }
}

/// Whether an error says that there is no such item.
pub(in crate::cel) fn is_index_error(error: &CelError) -> bool {
    match error {
        CelError::Evaluation(why) => why.starts_with("no such key") || why.starts_with("index out of bounds"),
        _ => false,
    }
}

/// The item of a list or the value of a map.
pub(in crate::cel) fn item<'a>(operand: &Value<'a>, at: &Value<'_>) -> Made<'a> {
    match (operand, at) {
        (Value::Map(map), key) => match map.get(key) {
            Some(found) => found,
            None => failed(format!("no such key: {}", shown_key(key))),
        },
        (Value::List(list), at) => {
            let index = match at {
                Value::Int(index) => Some(*index),
                Value::Uint(index) => i64::try_from(*index).ok(),
                Value::Double(index) if index.fract() == 0.0 && index.abs() < 9e15 => Some(*index as i64),
                _ => return no_overload(),
            };
            let found = index.and_then(|index| usize::try_from(index).ok()).and_then(|index| list.get(index));
            found.unwrap_or_else(|| failed(format!("index out of bounds: {}", shown_key(at))))
        }
        (Value::Message(message), Value::String(name)) => {
            message.get(name).map_or_else(|| failed(format!("no such key: {name}")), Ok)
        }
        (Value::Library(value), Value::String(name)) => match value.field(name) {
            Some(found) => Ok(found),
            None => failed(format!("no such key: {name}")),
        },
        (_, key) => failed(format!("no such key: {}", shown_key(key))),
    }
}

fn shown_key(key: &Value<'_>) -> String {
    match Key::of(key) {
        Ok(Key::String(text)) => text.to_string(),
        Ok(Key::Int(int)) => int.to_string(),
        Ok(Key::Uint(uint)) => uint.to_string(),
        Ok(Key::Bool(bool)) => bool.to_string(),
        Err(_) => match key {
            Value::Double(double) => super::convert::go_double(*double),
            other => other.type_name().to_owned(),
        },
    }
}

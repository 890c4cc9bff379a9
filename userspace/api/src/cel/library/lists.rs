//! Lists: sums and extremes, search, sorting, slices; and sets.

use std::cmp::Ordering;
use std::sync::Arc;

use super::args::{bounded_list, int, items};
use super::operators::add;
use crate::cel::budget::CelError;
use crate::cel::functions::{Implementation, Table};
use crate::cel::json::ItemIdentity;
use crate::cel::syntax::op;
use crate::cel::types::Type;
use crate::cel::values::{List, Value, failed, no_overload};

/// Levels of lists in lists that `flatten` opens.
const MAX_FLATTEN_DEPTH: i64 = 64;

type Made<'a> = Result<Value<'a>, CelError>;

/// Overloads for lists of one type.
struct Ordered {
    of: Type,
    is_sorted: &'static str,
    max: &'static str,
    min: &'static str,
    sort: &'static str,
    sort_by: &'static str,
    /// Sum and the initial value, for what can be added.
    sum: Option<(&'static str, Implementation)>,
}

macro_rules! ordered {
    ($of:expr, $name:literal, $type_name:literal, $sum:expr) => {
        Ordered {
            of: $of,
            is_sorted: concat!("list_", $name, "_is_sorted_bool"),
            max: concat!("list_", $name, "_max_", $name),
            min: concat!("list_", $name, "_min_", $name),
            sort: concat!("list_", $type_name, "_sort"),
            sort_by: concat!("list_", $type_name, "_sortByAssociatedKeys"),
            sum: $sum,
        }
    };
}

pub(super) fn declare(table: &mut Table) {
    let a = Type::Variable(0);
    let list = || Type::list(a.clone());
    table.member("indexOf", "list_a_index_of_int", [list(), a.clone()], Type::Int, |args| {
        position_of(args, false)
    });
    table.member("lastIndexOf", "list_a_last_index_of_int", [list(), a.clone()], Type::Int, |args| {
        position_of(args, true)
    });
    declare_ordered(table);
}

fn declare_ordered(table: &mut Table) {
    let a = Type::Variable(0);
    let list = || Type::list(a.clone());
    let ordered = [
        ordered!(Type::Int, "int", "int", Some(("list_int_sum_int", |args| sum(args, Value::Int(0))))),
        ordered!(Type::Uint, "uint", "uint", Some(("list_uint_sum_uint", |args| sum(args, Value::Uint(0))))),
        ordered!(
            Type::Double,
            "double",
            "double",
            Some(("list_double_sum_double", |args| sum(args, Value::Double(0.0))))
        ),
        ordered!(Type::Bool, "bool", "bool", None),
        ordered!(
            Type::Duration,
            "duration",
            "google.protobuf.Duration",
            Some(("list_duration_sum_duration", |args| sum(args, Value::Duration(0))))
        ),
        ordered!(Type::Timestamp, "timestamp", "google.protobuf.Timestamp", None),
        ordered!(Type::String, "string", "string", None),
        ordered!(Type::Bytes, "bytes", "bytes", None),
    ];
    for one in ordered {
        let of = Type::list(one.of.clone());
        table.member("isSorted", one.is_sorted, [of.clone()], Type::Bool, is_sorted);
        table.member("max", one.max, [of.clone()], one.of.clone(), |args| {
            extreme(args, "max", Ordering::Less)
        });
        table.member("min", one.min, [of.clone()], one.of.clone(), |args| {
            extreme(args, "min", Ordering::Greater)
        });
        if let Some((id, call)) = one.sum {
            table.member("sum", id, [of.clone()], one.of, call);
        }
        table.member("sort", one.sort, [of.clone()], of.clone(), |args| {
            let list = items(args, 0)?;
            sorted(list.clone(), list)
        });
        table.member(op::SORT_BY_KEYS, one.sort_by, [list(), of], list(), |args| {
            sorted(items(args, 0)?, items(args, 1)?)
        });
    }
    declare_made(table);
}

fn declare_made(table: &mut Table) {
    let a = Type::Variable(0);
    let list = || Type::list(a.clone());
    table.member("slice", "list_slice", [list(), Type::Int, Type::Int], list(), slice);
    table.member("flatten", "list_flatten", [Type::list(list())], list(), |args| {
        flattened(items(args, 0)?, 1)
    });
    let dynamic = || Type::list(Type::Dyn);
    table.member("flatten", "list_flatten_int", [dynamic(), Type::Int], dynamic(), |args| {
        flattened(items(args, 0)?, int(args, 1)?)
    });
    table.global("lists.range", "lists_range", [Type::Int], Type::list(Type::Int), |args| {
        let end = int(args, 0)?.max(0);
        bounded_list(usize::try_from(end).unwrap_or(usize::MAX))?;
        Ok(Value::list((0..end).map(Value::Int).collect()))
    });
    table.member("reverse", "list_reverse", [list()], list(), |args| {
        Ok(Value::list(items(args, 0)?.into_iter().rev().collect()))
    });
    table.member("distinct", "list_distinct", [list()], list(), |args| {
        let mut out: Vec<Value<'_>> = Vec::new();
        for item in items(args, 0)? {
            if !contains(&out, &item)? {
                out.push(item);
            }
        }
        Ok(Value::list(out))
    });
    for (function, id, call) in [
        ("sets.contains", "list_sets_contains_list", contains_all as Implementation),
        ("sets.equivalent", "list_sets_equivalent_list", are_equivalent),
        ("sets.intersects", "list_sets_intersects_list", intersect),
    ] {
        table.global(function, id, [list(), list()], Type::Bool, call);
    }
}

/// Both lists, one after the other. Sets and lists with keys keep one item of each value or key.
pub(super) fn join<'a>(a: &List<'a>, b: &List<'a>) -> Made<'a> {
    bounded_list(a.len().saturating_add(b.len()))?;
    let identity = match a {
        List::Json(list) => list.identity(),
        List::Owned(_) => ItemIdentity::Position,
    };
    let mut out = a.items()?;
    for item in b.items()? {
        let at = match identity {
            ItemIdentity::Position => None,
            ItemIdentity::Value if contains(&out, &item)? => continue,
            ItemIdentity::Value => None,
            ItemIdentity::Keys(keys) => same_keys(&out, &item, keys)?,
        };
        match at.and_then(|at| out.get_mut(at)) {
            Some(slot) => *slot = item,
            None => out.push(item),
        }
    }
    Ok(Value::list(out))
}

fn same_keys(items: &[Value<'_>], wanted: &Value<'_>, keys: &[String]) -> Result<Option<usize>, CelError> {
    let key_of = |value: &Value<'_>, key: &str| match value {
        Value::Map(map) => {
            let escaped = crate::cel::names::escape(key).unwrap_or_else(|| key.to_owned());
            map.get(&Value::text(escaped)).and_then(Result::ok).map(|found| format!("{found:?}"))
        }
        _ => None,
    };
    let identity = |value: &Value<'_>| keys.iter().map(|key| key_of(value, key)).collect::<Vec<_>>();
    let wanted = identity(wanted);
    Ok(items.iter().position(|item| identity(item) == wanted))
}

fn contains(items: &[Value<'_>], wanted: &Value<'_>) -> Result<bool, CelError> {
    for item in items {
        if item.equals(wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn position_of<'a>(args: &[Value<'a>], last: bool) -> Made<'a> {
    let list = items(args, 0)?;
    let Some(wanted) = args.get(1) else { return no_overload() };
    let mut found = -1;
    for (at, item) in list.iter().enumerate() {
        if item.equals(wanted)? {
            found = i64::try_from(at).unwrap_or(i64::MAX);
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

/// Whether values of a type have an order.
fn is_comparable(value: &Value<'_>) -> bool {
    matches!(
        value,
        Value::Bool(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::String(_)
            | Value::Bytes(_)
            | Value::Timestamp(_)
            | Value::Duration(_)
    )
}

fn is_sorted<'a>(args: &[Value<'a>]) -> Made<'a> {
    for pair in items(args, 0)?.windows(2) {
        if pair[0].compare(&pair[1])? == Some(Ordering::Greater) {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: &[Value<'a>], zero: Value<'a>) -> Made<'a> {
    let mut out = zero;
    for item in items(args, 0)? {
        out = add(&out, &item)?;
    }
    Ok(out)
}

fn extreme<'a>(args: &[Value<'a>], name: &str, replaced: Ordering) -> Made<'a> {
    let mut all = items(args, 0)?.into_iter();
    let Some(mut out) = all.next() else { return failed(format!("{name} called on empty list")) };
    for item in all {
        if out.compare(&item)? == Some(replaced) {
            out = item;
        }
    }
    Ok(out)
}

/// The items in the order of their keys.
fn sorted<'a>(list: Vec<Value<'a>>, keys: Vec<Value<'a>>) -> Made<'a> {
    if list.len() != keys.len() {
        return failed(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        ));
    }
    let Some(first) = keys.first() else { return Ok(Value::list(list)) };
    if !is_comparable(first) {
        return failed("list elements must be comparable");
    }
    if keys.iter().any(|key| key.type_name() != first.type_name()) {
        return failed("list elements must have the same type");
    }
    let mut pairs: Vec<_> = keys.into_iter().zip(list).collect();
    pairs.sort_by(|(a, _), (b, _)| a.compare(b).ok().flatten().unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}

fn slice<'a>(args: &[Value<'a>]) -> Made<'a> {
    let (list, start, end) = (items(args, 0)?, int(args, 1)?, int(args, 2)?);
    let failed = |why: &str| failed(format!("cannot slice({start}, {end}), {why}"));
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return failed("negative indexes not supported");
    };
    if from > to {
        return failed("start index must be less than or equal to end index");
    }
    match list.get(from..to) {
        Some(part) => Ok(Value::list(part.to_vec())),
        None => failed(&format!("list is length {}", list.len())),
    }
}

fn flattened(list: Vec<Value<'_>>, depth: i64) -> Made<'_> {
    if depth < 0 {
        return failed("level must be non-negative");
    }
    let mut out = Vec::new();
    flatten(list, depth.min(MAX_FLATTEN_DEPTH), &mut out)?;
    Ok(Value::list(out))
}

fn flatten<'a>(list: Vec<Value<'a>>, depth: i64, out: &mut Vec<Value<'a>>) -> Result<(), CelError> {
    for item in list {
        match item {
            Value::List(inner) if depth > 0 => flatten(inner.items()?, depth - 1, out)?,
            other => {
                bounded_list(out.len() + 1)?;
                out.push(other);
            }
        }
    }
    Ok(())
}

fn contains_all<'a>(args: &[Value<'a>]) -> Made<'a> {
    let list = items(args, 0)?;
    for item in items(args, 1)? {
        if !contains(&list, &item)? {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn are_equivalent<'a>(args: &[Value<'a>]) -> Made<'a> {
    let [a, b] = args else { return no_overload() };
    match contains_all(&[a.clone(), b.clone()])? {
        Value::Bool(true) => contains_all(&[b.clone(), a.clone()]),
        other => Ok(other),
    }
}

fn intersect<'a>(args: &[Value<'a>]) -> Made<'a> {
    let list = Arc::new(items(args, 1)?);
    for item in items(args, 0)? {
        if contains(&list, &item)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

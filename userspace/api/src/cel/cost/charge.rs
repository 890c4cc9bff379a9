//! The cost of a call that was evaluated.

use super::range::scaled;
use super::{ACCESS_CHECK, CHARACTER, LIST, REGEX_CHARACTER, REQUIREMENT, REQUIREMENTS_PER_CHARACTER};
use crate::cel::functions::Overload;
use crate::cel::library::{Cidr, NamedFormat};
use crate::cel::syntax::op;
use crate::cel::values::Value;

fn read(size: u64) -> u64 {
    scaled(size, CHARACTER)
}

/// The cost of a call of an overload; the target of a method is the first argument. A call that was `resolved` at the check
/// has only this overload; the cost of others does not depend on the overload that the values choose.
pub(in crate::cel) fn charge(
    overload: &Overload,
    resolved: bool,
    args: &[Value<'_>],
    result: Option<&Value<'_>>,
) -> u64 {
    let id = if resolved { overload.id } else { "" };
    if let Some(cost) = of_lists(id, args, result) {
        return cost;
    }
    let size = |index: usize| args.get(index).map_or(1, Value::size);
    let made = result.map_or(1, Value::size);
    match overload.function {
        "check" => ACCESS_CHECK,
        "fieldSelector" | "labelSelector" => {
            let requirements = scaled(size(1), REQUIREMENTS_PER_CHARACTER);
            LIST + read(size(1)) + scaled(requirements, REQUIREMENT)
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => read(size(0)),
        "replace" | "split" => scaled(size(0), 2.0 * CHARACTER),
        "join" => scaled(made, 2.0 * CHARACTER),
        "find" | "findAll" => read(size(0) + 1).saturating_mul(scaled(size(1), REGEX_CHARACTER)),
        "ip" if id == "cidr_ip" => 1,
        "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            read(size(0))
        }
        "ip.isCanonical" => scaled(size(0), 2.0 * CHARACTER),
        "containsIP" | "containsCIDR" => {
            // The size of a network is that of its address in bytes.
            let bytes = args.first().map_or(4, address_bytes);
            let mut cost = read(bytes * 2);
            if overload.function == "containsCIDR" {
                cost += read(bytes) + 1;
            }
            if matches!(id, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                cost += read(size(1));
            }
            cost
        }
        "validate" => {
            let format = args.first().and_then(Value::as_library::<&'static NamedFormat>);
            format.map_or(1, |format| {
                read(size(1) + 1).saturating_mul(scaled(format.regex_size, REGEX_CHARACTER))
            })
        }
        op::EQUALS if matches!(args.first(), Some(Value::Library(_))) => 1,
        _ => of_language(id, &size),
    }
}

/// The cost of functions that make lists or compare items.
fn of_lists(id: &str, args: &[Value<'_>], result: Option<&Value<'_>>) -> Option<u64> {
    let size = |index: usize| args.get(index).map_or(1, Value::size);
    let made = result.map_or(1, Value::size);
    Some(match id {
        "list_slice" | "lists_range" | "list_reverse" => 1 + LIST + made,
        "list_flatten" => 1 + LIST + size(0),
        "list_flatten_int" => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => *depth as f64,
                _ => 1.0,
            };
            // Upstream adds a negative number for a negative depth.
            ((size(0) as f64 * depth) as i64 as u64).wrapping_add(1 + LIST).min(1 << 62)
        }
        "list_distinct" => compared_with_itself(args.first()),
        id if id.ends_with("_sort") => compared_with_itself(args.first()),
        id if id.ends_with("_sortByAssociatedKeys") => compared_with_itself(args.get(1)),
        "list_sets_contains_list" | "list_sets_intersects_list" => 1 + size(0).saturating_mul(size(1)),
        "list_sets_equivalent_list" => 1 + size(0).saturating_mul(size(1)).saturating_mul(2),
        _ => return None,
    })
}

fn of_language(overload: &str, size: &dyn Fn(usize) -> u64) -> u64 {
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => read(size(0)),
        "in_list" => size(1),
        "equals" | "not_equals" => read(size(0).min(size(1))),
        "add_string" | "add_bytes" => read(size(0).saturating_add(size(1))),
        "matches_string" => read(size(0) + 1).saturating_mul(scaled(size(1), REGEX_CHARACTER)),
        "contains_string" => read(size(0)).saturating_mul(read(size(1))),
        id if (id.starts_with("less_") || id.starts_with("greater_"))
            && (id.ends_with("_string") || id.ends_with("_bytes")) =>
        {
            read(size(0).min(size(1)))
        }
        _ => 1,
    }
}

fn compared_with_itself(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return 1 + LIST };
    let count = list.len() as u64;
    let is_text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    let factor = if is_text { 2.0 + CHARACTER } else { 2.0 };
    (count.saturating_mul(count) as f64 * factor) as u64 + 1 + LIST
}

/// The bytes of the address of a network.
fn address_bytes(value: &Value<'_>) -> u64 {
    value.as_library::<Cidr>().map_or(1, Cidr::address_bytes)
}

/// Values of one list that are counted.
const MAX_TRAVERSED: u64 = 16_000_000;

/// The cost of reading a value with all that it holds.
fn traversal(value: &Value<'_>) -> u64 {
    let mut left = MAX_TRAVERSED;
    traverse(value, &mut left)
}

fn traverse(value: &Value<'_>, left: &mut u64) -> u64 {
    *left = left.saturating_sub(1);
    if *left == 0 {
        return MAX_TRAVERSED;
    }
    let mut cost: u64 = 0;
    match value {
        Value::String(text) => (text.len() as f64 * CHARACTER) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * CHARACTER) as u64,
        Value::List(list) => {
            for item in (0..list.len()).filter_map(|at| list.get(at)).flatten() {
                cost = cost.saturating_add(traverse(&item, left));
            }
            cost
        }
        Value::Map(map) => {
            for key in map.keys() {
                let key = key.value();
                cost = cost.saturating_add(traverse(&key, left));
                if let Some(Ok(value)) = map.get(&key) {
                    cost = cost.saturating_add(traverse(&value, left));
                }
            }
            cost
        }
        _ => 1,
    }
}

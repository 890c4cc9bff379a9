//! The estimated cost of functions, and the sizes of their results.

use super::estimate::{Estimate, Path, size_of_path};
use super::range::Range;
use super::{ACCESS_CHECK, CHARACTER, LIST, REGEX_CHARACTER, REQUIREMENT, REQUIREMENTS_PER_CHARACTER};
use crate::cel::library::{CIDR, FORMAT, IP, URL};
use crate::cel::syntax::{Id, Literal, op};
use crate::cel::types::Type;

/// The largest size of a format's name.
const MAX_FORMAT: u64 = 64;
/// The length that the regular expression of a format may have.
const MAX_FORMAT_REGEX: f64 = 128.0;

/// An argument of a call.
#[derive(Clone)]
pub(super) struct Operand<'d> {
    pub id: Id,
    pub of: &'d Type,
    pub path: Path<'d>,
    pub size: Option<Range>,
    pub literal: Option<&'d Literal>,
}

impl Operand<'_> {
    pub(in crate::cel) fn known_size(&self) -> Range {
        self.size.unwrap_or(Range::UNKNOWN)
    }

    /// The value of a literal whole number.
    fn int(&self) -> Option<i64> {
        match self.literal {
            Some(Literal::Int(value)) => Some(*value),
            _ => None,
        }
    }

    fn int_or(&self, default: u64) -> u64 {
        self.int().map_or(default, |value| u64::try_from(value).unwrap_or(0))
    }
}

pub(super) struct Call<'c, 'd> {
    pub function: &'static str,
    pub overload: &'static str,
    pub target: Option<&'c Operand<'d>>,
    pub args: &'c [Operand<'d>],
}

type Cost = Option<(Range, Option<Range>)>;

/// The cost of a call without its arguments, and the size of its result; `None` for a call of cost one.
pub(super) fn of_call(estimate: &Estimate<'_>, call: &Call<'_, '_>) -> Cost {
    of_lists(call)
        .or_else(|| of_texts(call))
        .or_else(|| of_elements(estimate, call))
        .or_else(|| of_libraries(call))
        .or_else(|| of_language(call))
}

fn only(cost: Range) -> Cost {
    Some((cost, None))
}

fn read(size: Range) -> Range {
    size.scaled(CHARACTER)
}

/// Lists that are made: the call, the list, and its items times a factor.
fn made_list(factor: f64, size: Range) -> Cost {
    Some((size.scaled(factor).plus(Range::fixed(1 + LIST)), Some(size)))
}

fn of_lists(call: &Call<'_, '_>) -> Cost {
    match (call.overload, call.target, call.args) {
        ("list_slice", Some(list), [start, end]) => {
            let count = end.int_or(list.known_size().max).wrapping_sub(start.int_or(0));
            made_list(1.0, Range::fixed(count))
        }
        ("lists_range", None, [count]) => made_list(1.0, Range::fixed(count.int_or(u64::MAX))),
        ("list_reverse", Some(list), []) => made_list(1.0, list.known_size()),
        ("list_flatten", Some(list), []) => made_list(1.0, list.known_size()),
        ("list_flatten_int", Some(list), [depth]) => {
            made_list(depth.int_or(u64::MAX) as f64, list.known_size())
        }
        ("list_distinct", Some(list), []) => made_list(2.0, list.known_size().times(list.known_size())),
        (id, Some(list), []) if id.ends_with("_sort") => sorted(id, list),
        (id, Some(_), [keys]) if id.ends_with("_sortByAssociatedKeys") => sorted(id, keys),
        ("list_sets_contains_list" | "list_sets_intersects_list", None, [a, b]) => {
            only(a.known_size().times(b.known_size()).scaled(1.0).plus(Range::fixed(1)))
        }
        ("list_sets_equivalent_list", None, [a, b]) => {
            only(a.known_size().times(b.known_size()).scaled(2.0).plus(Range::fixed(1)))
        }
        _ => None,
    }
}

fn sorted(overload: &str, keys: &Operand<'_>) -> Cost {
    let is_text = overload.starts_with("list_string_") || overload.starts_with("list_bytes_");
    let factor = if is_text { 2.0 + CHARACTER } else { 2.0 };
    made_list(factor, keys.known_size().times(keys.known_size()))
}

/// Functions that read all items of a list.
fn of_elements(estimate: &Estimate<'_>, call: &Call<'_, '_>) -> Cost {
    let target = call.target?;
    let element = target.of.first_parameter().map(|of| (of, estimate.items_of(target.path)));
    let element_size = |path| size_of_path(path).unwrap_or(Range::UNKNOWN);
    match call.function {
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => match element {
            Some((of, path)) => {
                let each = match of {
                    Type::String | Type::Bytes => Range::fixed(1).plus(read(element_size(path))),
                    _ => Range::fixed(1),
                };
                only(target.known_size().times(each))
            }
            None => only(read(target.known_size())),
        },
        "join" => {
            let count = target.known_size();
            let mut size = element.map_or(Range::fixed(0), |(_, path)| count.times(element_size(path)));
            if let Some(separator) = call.args.first() {
                let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
                size = size.plus(separator.known_size().times(between));
            }
            Some((read(size), Some(size)))
        }
        _ => None,
    }
}

fn of_texts(call: &Call<'_, '_>) -> Cost {
    let target = call.target.map(Operand::known_size);
    let first = call.args.first().map(Operand::known_size);
    match (call.function, target, first) {
        ("url" | "jsonpatch.escapeKey", _, Some(size)) => Some((read(size), Some(size))),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(size), _) => Some((read(size), Some(size))),
        ("replace", Some(size), Some(from)) => {
            let to = call.args.get(1)?.known_size();
            Some((size.scaled(2.0 * CHARACTER), Some(replaced(size, from, to))))
        }
        ("split", Some(size), _) => {
            let most = call.args.get(1).and_then(Operand::int);
            // Upstream converts a negative number to a very large one.
            let max = most.map_or(size.max, |most| most as u64);
            Some((size.scaled(2.0 * CHARACTER), Some(Range { min: 0, max })))
        }
        ("find" | "findAll", Some(size), Some(pattern)) => {
            let cost = read(size.plus(Range::fixed(1))).times(pattern.scaled(REGEX_CHARACTER));
            Some((cost, Some(Range { min: 0, max: size.max })))
        }
        _ => None,
    }
}

/// The size of a text in which parts are replaced.
fn replaced(size: Range, from: Range, to: Range) -> Range {
    let (mut count, mut kept) = (Range::fixed(0), Range::fixed(0));
    if from.min == 0 {
        (count.max, kept.max) = (size.max.saturating_add(1), size.max);
    } else if to.max <= from.min {
        kept.max = size.max;
    } else {
        count.max = (size.max as f64 / from.min as f64).ceil() as u64;
    }
    if from.max == 0 {
        (count.min, kept.min) = (size.min.saturating_add(1), size.min);
    } else if from.max <= to.min {
        kept.min = size.min;
    } else {
        count.min = (size.min as f64 / from.max as f64).ceil() as u64;
    }
    count.times(to).plus(kept)
}

fn of_libraries(call: &Call<'_, '_>) -> Cost {
    let first = call.args.first().map(Operand::known_size);
    match (call.function, first) {
        ("check", _) => only(Range::fixed(ACCESS_CHECK)),
        ("fieldSelector" | "labelSelector", Some(size)) => {
            let requirements = size.scaled(REQUIREMENTS_PER_CHARACTER).scaled(REQUIREMENT);
            only(Range::fixed(LIST).plus(read(size)).plus(requirements))
        }
        ("ip", _) if call.overload == "cidr_ip" => only(Range::fixed(1)),
        (
            "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver",
            Some(size),
        ) => only(read(size)),
        ("ip.isCanonical", Some(size)) => only(size.scaled(2.0 * CHARACTER)),
        ("containsIP" | "containsCIDR", Some(size)) => {
            let bytes = Range { min: 4, max: 16 };
            let mut cost = read(bytes.plus(bytes));
            if call.function == "containsCIDR" {
                cost = cost.plus(read(bytes)).plus(Range::fixed(1));
            }
            if matches!(call.overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                cost = cost.plus(read(size));
            }
            only(cost)
        }
        ("validate", Some(size)) => only(read(size).scaled(MAX_FORMAT_REGEX * REGEX_CHARACTER)),
        _ => None,
    }
}

fn of_language(call: &Call<'_, '_>) -> Cost {
    match (call.overload, call.target, call.args) {
        ("string_format", Some(format), _) => only(read(format.known_size())),
        ("string_to_bytes", _, [text]) => {
            let size = text.known_size();
            Some((read(size), Some(Range { min: size.min, max: size.max.wrapping_mul(4) })))
        }
        ("bytes_to_string", _, [bytes]) => {
            let size = bytes.known_size();
            Some((read(size), Some(Range { min: size.min / 4, max: size.max })))
        }
        ("strings_quote", _, [text]) => {
            let size = text.known_size();
            let quoted =
                Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
            Some((read(size), Some(quoted)))
        }
        ("starts_with_string" | "ends_with_string", _, [part]) => only(read(part.known_size())),
        ("in_list", _, [_, list]) => only(list.known_size().scaled(1.0)),
        ("matches_string", Some(text), [pattern]) => {
            let text = read(text.known_size().plus(Range::fixed(1)));
            only(text.times(pattern.known_size().scaled(REGEX_CHARACTER)))
        }
        ("contains_string", Some(text), [part]) => {
            only(read(text.known_size()).times(read(part.known_size())))
        }
        ("equals" | "not_equals", _, [a, b]) => {
            of_equality(call.function, a, b).or_else(|| only(compared(a, b)))
        }
        (id, _, [a, b]) if is_text_order(id) => only(compared(a, b)),
        _ => None,
    }
}

fn is_text_order(id: &str) -> bool {
    (id.starts_with("less_") || id.starts_with("greater_"))
        && (id.ends_with("_string") || id.ends_with("_bytes"))
}

/// The cost of reading the shorter of two values.
fn compared(a: &Operand<'_>, b: &Operand<'_>) -> Range {
    let max = a.known_size().max.min(b.known_size().max);
    read(Range { min: u64::from(max > 0), max })
}

/// Equality of values of the libraries' types.
fn of_equality(function: &str, a: &Operand<'_>, b: &Operand<'_>) -> Cost {
    let Type::Library(name) = a.of else { return None };
    if function != op::EQUALS || a.of != b.of {
        return None;
    }
    let max = match *name {
        FORMAT => MAX_FORMAT,
        URL => b.size.map_or(1, |size| size.max),
        IP | CIDR => 1,
        _ => 1,
    };
    only(read(Range { min: 1, max }))
}

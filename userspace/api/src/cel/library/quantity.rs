//! Quantities with the exactness of Kubernetes' own: a whole number and a power of ten.

use std::any::Any;
use std::cmp::Ordering;

use super::args::{library, text};
use crate::cel::budget::CelError;
use crate::cel::functions::{Implementation, Table};
use crate::cel::types::Type;
use crate::cel::values::{Opaque, Value, failed};

pub(in crate::cel) const QUANTITY: &str = "kubernetes.Quantity";

type Made<'a> = Result<Value<'a>, CelError>;

/// The smallest power of ten that is kept.
const NANO: i32 = -9;
/// The largest amount, in nanos.
const MAX_NANOS: i128 = i64::MAX as i128 * 1_000_000_000;

/// A quantity: `value` times ten to the power of `scale`.
#[derive(Clone, Copy, Debug)]
pub(in crate::cel) struct Exact {
    value: i128,
    scale: i32,
    /// Whether it does not fit 64 bits, so that it has no integer form upstream.
    wide: bool,
}

impl PartialEq for Exact {
    fn eq(&self, other: &Exact) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Opaque for Exact {
    fn type_name(&self) -> &'static str {
        QUANTITY
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Exact {
    fn parse(text: &str) -> Result<Exact, &'static str> {
        const FORM: &str =
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        const SUFFIX: &str = "unable to parse quantity's suffix";
        if text.is_empty() {
            return Err(FORM);
        }
        let (negative, rest) = match text.strip_prefix(['+', '-']) {
            Some(rest) => (text.starts_with('-'), rest),
            None => (false, text),
        };
        let whole_end = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = rest.split_at(whole_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(FORM);
        }
        let known = |c: char| "eEinumkKMGTP".contains(c);
        let letters = suffix.trim_start_matches(known);
        let digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
        if !digits.bytes().all(|c| c.is_ascii_digit()) {
            return Err(FORM);
        }
        let (factor, exponent) = suffix_of(suffix).ok_or(SUFFIX)?;
        let all = format!("{}{fraction}", whole.trim_start_matches('0'));
        let kept = all.get(..all.len().min(36)).unwrap_or(&all);
        let dropped = i32::try_from(all.len() - kept.len()).unwrap_or(i32::MAX);
        let number: i128 = if kept.is_empty() { 0 } else { kept.parse().map_err(|_| FORM)? };
        let scale = exponent
            .saturating_add(dropped)
            .saturating_sub(i32::try_from(fraction.len()).unwrap_or(i32::MAX));
        let value = number.saturating_mul(factor);
        let fits = i64::try_from(value).is_ok() && dropped == 0 && scale >= NANO;
        let value = if negative { -value } else { value };
        if fits && (factor == 1 || exponent == 0) {
            return Ok(Exact { value, scale, wide: false });
        }
        let nanos = nanos_of(value, scale).clamp(-MAX_NANOS, MAX_NANOS);
        Ok(Exact { value: nanos, scale: NANO, wide: true })
    }

    fn of_int(value: i64) -> Exact {
        Exact { value: i128::from(value), scale: 0, wide: false }
    }

    fn nanos(&self) -> i128 {
        nanos_of(self.value, self.scale)
    }

    fn cmp(&self, other: &Exact) -> Ordering {
        self.nanos().cmp(&other.nanos())
    }

    /// The amount as a whole number, if it was written as one.
    fn as_int(&self) -> Option<i64> {
        if self.wide || self.scale < 0 && self.value != 0 {
            return None;
        }
        let factor = 10_i128.checked_pow(u32::try_from(self.scale).unwrap_or(0))?;
        i64::try_from(self.value.checked_mul(factor)?).ok()
    }

    fn sum(self, other: Exact) -> Exact {
        if self.value == 0 && !self.wide {
            return other;
        }
        let scale = self.scale.min(other.scale);
        let aligned = |of: &Exact| {
            let steps = u32::try_from(of.scale - scale).ok()?;
            of.value.checked_mul(10_i128.checked_pow(steps)?)
        };
        let narrow = || {
            let sum = aligned(&self)?.checked_add(aligned(&other)?)?;
            i64::try_from(sum).ok()
        };
        match narrow() {
            Some(value) if !self.wide && !other.wide => {
                Exact { value: i128::from(value), scale, wide: false }
            }
            _ => Exact { value: self.nanos().saturating_add(other.nanos()), scale: NANO, wide: true },
        }
    }

    fn negated(self) -> Exact {
        Exact { value: -self.value, ..self }
    }
}

/// The amount in nanos, rounded away from zero.
fn nanos_of(value: i128, scale: i32) -> i128 {
    let steps = scale.saturating_sub(NANO);
    let power = 10_i128.checked_pow(steps.unsigned_abs());
    match power {
        Some(power) if steps >= 0 => value.saturating_mul(power),
        Some(power) => value / power + (value % power).signum(),
        None if steps >= 0 => value.signum() * i128::MAX,
        None => value.signum(),
    }
}

/// The factor and the power of ten of a suffix.
fn suffix_of(suffix: &str) -> Option<(i128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

pub(super) fn declare(table: &mut Table) {
    use Type::{Bool, Double, Int, String};
    let of = Type::Library(QUANTITY);
    let two = [of.clone(), of.clone()];
    table.global("quantity", "string_to_quantity", [String], of.clone(), |args| {
        match Exact::parse(text(args, 0)?) {
            Ok(quantity) => Ok(Value::library(quantity)),
            Err(why) => failed(why),
        }
    });
    table.global("isQuantity", "is_quantity_string", [String], Bool, |args| {
        Ok(Value::Bool(Exact::parse(text(args, 0)?).is_ok()))
    });
    table.global("sign", "quantity_sign", [of.clone()], Int, |args| {
        Ok(Value::Int(if one(args, 0)?.value == 0 { 0 } else { i64::from(one(args, 0)?.value > 0) * 2 - 1 }))
    });
    table.member("isGreaterThan", "quantity_is_greater_than", &two, Bool, |args| {
        Ok(Value::Bool(one(args, 0)?.cmp(&one(args, 1)?).is_gt()))
    });
    table.member("isLessThan", "quantity_is_less_than", &two, Bool, |args| {
        Ok(Value::Bool(one(args, 0)?.cmp(&one(args, 1)?).is_lt()))
    });
    table.member("compareTo", "quantity_compare_to", &two, Int, |args| {
        Ok(Value::Int(one(args, 0)?.cmp(&one(args, 1)?) as i64))
    });
    table.member("asApproximateFloat", "quantity_get_float", [of.clone()], Double, |args| {
        let quantity = one(args, 0)?;
        let power = 10_f64.powi(quantity.scale.abs());
        let value = quantity.value as f64;
        Ok(Value::Double(if quantity.scale < 0 { value / power } else { value * power }))
    });
    table.member("asInteger", "quantity_get_int", [of.clone()], Int, |args| match one(args, 0)?.as_int() {
        Some(int) => Ok(Value::Int(int)),
        None => failed("cannot convert value to integer"),
    });
    table.member("isInteger", "quantity_is_integer", [of.clone()], Bool, |args| {
        Ok(Value::Bool(one(args, 0)?.as_int().is_some()))
    });
    let sums: [(&str, &str, &str, Implementation); 2] = [
        ("add", "quantity_add", "quantity_add_int", |args| made(one(args, 0)?.sum(other(args)?))),
        ("sub", "quantity_sub", "quantity_sub_int", |args| made(one(args, 0)?.sum(other(args)?.negated()))),
    ];
    for (function, with_quantity, with_int, call) in sums {
        table.member(function, with_quantity, &two, of.clone(), call);
        table.member(function, with_int, [of.clone(), Int], of.clone(), call);
    }
}

fn made<'a>(quantity: Exact) -> Made<'a> {
    Ok(Value::library(quantity))
}

fn one(args: &[Value<'_>], index: usize) -> Result<Exact, CelError> {
    library::<Exact>(args, index).copied()
}

fn other(args: &[Value<'_>]) -> Result<Exact, CelError> {
    match args.get(1) {
        Some(Value::Int(value)) => Ok(Exact::of_int(*value)),
        _ => one(args, 1),
    }
}

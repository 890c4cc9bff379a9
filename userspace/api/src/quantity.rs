//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Exact to a thousandth (the resolution of every resource in use).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// A number of thousandths, and the notation it was written in. Equality and order ignore the notation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    millis: i128,
    notation: Notation,
}

/// The notation of a quantity. Sums keep it: `Mi` plus `Mi` is displayed in `Mi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Notation {
    #[default]
    Decimal,
    Binary,
    Exponent,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.millis == other.millis
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.millis.cmp(&other.millis)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.millis.hash(state);
    }
}

/// A text that is no quantity, with upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct BadQuantity;

impl Quantity {
    /// A quantity of thousandths, in decimal notation.
    pub fn from_millis(millis: i128) -> Quantity {
        Quantity { millis, notation: Notation::Decimal }
    }

    /// The number of thousandths.
    pub fn millis(self) -> i128 {
        self.millis
    }

    /// Whole units, rounded up as upstream's `Value()`.
    pub fn value(self) -> i128 {
        self.millis.div_euclid(1000) + i128::from(self.millis.rem_euclid(1000) != 0)
    }

    /// The sum, bounded by the number type.
    pub fn saturating_add(self, other: Quantity) -> Quantity {
        self.with(self.millis.saturating_add(other.millis), other)
    }

    /// The difference, bounded by the number type; may be negative.
    pub fn saturating_sub(self, other: Quantity) -> Quantity {
        self.with(self.millis.saturating_sub(other.millis), other)
    }

    /// Keeps the notation of `self`, unless `self` is zero.
    fn with(self, millis: i128, other: Quantity) -> Quantity {
        let notation = if self.millis == 0 { other.notation } else { self.notation };
        Quantity { millis, notation }
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.millis == 0
    }

    /// Rounded up to a whole number.
    pub fn rounded_up(self) -> Quantity {
        Quantity { millis: self.value().saturating_mul(1000), notation: self.notation }
    }
}

impl FromStr for Quantity {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let digits_end = text
            .char_indices()
            .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && matches!(c, '+' | '-'))))
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(digits_end);
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty()
            || fraction.contains('.')
            || whole.len() + fraction.len() > 30
        {
            return Err(BadQuantity);
        }
        let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| BadQuantity)?;
        let (factor, exponent) = scale(suffix)?;
        // digits x factor x 10^(exponent + 3 - fraction digits), rounded away from zero.
        let power = exponent + 3 - fraction.len() as i32;
        let scaled = digits.checked_mul(factor).ok_or(BadQuantity)?;
        let millis = if power >= 0 {
            scaled.checked_mul(10i128.checked_pow(power as u32).ok_or(BadQuantity)?).ok_or(BadQuantity)?
        } else {
            let divisor = 10i128.checked_pow(power.unsigned_abs()).ok_or(BadQuantity)?;
            scaled / divisor + i128::from(scaled % divisor != 0)
        };
        Ok(Quantity { millis: if negative { -millis } else { millis }, notation: notation(suffix) })
    }
}

fn notation(suffix: &str) -> Notation {
    match suffix {
        "E" => Notation::Decimal,
        _ if suffix.ends_with('i') => Notation::Binary,
        _ if suffix.starts_with(['e', 'E']) => Notation::Exponent,
        _ => Notation::Decimal,
    }
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Result<(i128, i32), BadQuantity> {
    Ok(match suffix {
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
        _ => {
            let power = suffix.strip_prefix(['e', 'E']).ok_or(BadQuantity)?;
            let power: i32 = power.parse().map_err(|_| BadQuantity)?;
            if !(-18..=18).contains(&power) {
                return Err(BadQuantity);
            }
            (1, power)
        }
    })
}

impl fmt::Display for Quantity {
    /// The canonical form: the greatest suffix of the notation that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
        const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const EXPONENT: [&str; 6] = ["e3", "e6", "e9", "e12", "e15", "e18"];
        if self.millis % 1000 != 0 {
            let suffix = if self.notation == Notation::Exponent { "e-3" } else { "m" };
            return write!(f, "{}{suffix}", self.millis);
        }
        let mut value = self.millis / 1000;
        // Upstream drops the binary notation below 1Ki.
        let (step, suffixes) = match self.notation {
            Notation::Binary if value.abs() >= 1024 => (1024, BINARY),
            Notation::Exponent => (1000, EXPONENT),
            Notation::Binary | Notation::Decimal => (1000, DECIMAL),
        };
        let mut suffix = "";
        for next in suffixes {
            if value == 0 || value % step != 0 {
                break;
            }
            value /= step;
            suffix = next;
        }
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn suffixes_scale() {
        for (text, millis) in [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            ("1Ki", 1_024_000),
            ("0.5Gi", 536_870_912_000),
            ("2e3", 2_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            (".5", 500),
            ("-1", -1000),
            ("1n", 1),
        ] {
            assert_eq!(text.parse::<Quantity>().map(Quantity::millis), Ok(millis), "{text}");
        }
        for bad in ["", "x", "1.2.3", "1kk", "1e", "--1", "1 Gi", "."] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sums_keep_the_notation() {
        let sum = |all: &[&str]| {
            let quantities = all.iter().map(|text| text.parse::<Quantity>().unwrap());
            quantities.fold(Quantity::default(), Quantity::saturating_add).to_string()
        };
        for (all, wanted) in [
            (&["0", "512Mi", "512Mi"][..], "1Gi"),
            (&["1Gi", "1000"], "1073742824"),
            (&["100m", "900m"], "1"),
            (&["1e3", "1e3"], "2e3"),
            (&["500m", "1k"], "1000500m"),
            (&["1000Mi"], "1000Mi"),
            (&["0Gi"], "0"),
            (&["5E"], "5E"),
        ] {
            assert_eq!(sum(all), wanted, "{all:?}");
        }
    }

    proptest! {
        #[test]
        fn display_is_parsed_to_the_same_quantity(millis in -1_000_000_000_000i128..1_000_000_000_000) {
            let quantity = Quantity::from_millis(millis);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}") {
            let _ = text.parse::<Quantity>();
        }
    }
}

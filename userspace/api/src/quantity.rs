//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Exact to a thousandth (the resolution of every resource in use).

use std::fmt;
use std::str::FromStr;

/// A number of thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    millis: i128,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct BadQuantity;

impl Quantity {
    pub fn from_millis(millis: i128) -> Quantity {
        Quantity { millis }
    }

    pub fn millis(self) -> i128 {
        self.millis
    }

    /// Whole units, rounded up as upstream's `Value()`.
    pub fn value(self) -> i128 {
        self.millis.div_euclid(1000) + i128::from(self.millis.rem_euclid(1000) != 0)
    }

    pub fn saturating_add(self, other: Quantity) -> Quantity {
        Quantity { millis: self.millis.saturating_add(other.millis) }
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
        // digits x factor x 10^(exponent + 3 - fraction digits), rounded up away from zero.
        let power = exponent + 3 - fraction.len() as i32;
        let scaled = digits.checked_mul(factor).ok_or(BadQuantity)?;
        let millis = if power >= 0 {
            scaled.checked_mul(10i128.checked_pow(power as u32).ok_or(BadQuantity)?).ok_or(BadQuantity)?
        } else {
            let divisor = 10i128.checked_pow(power.unsigned_abs()).ok_or(BadQuantity)?;
            scaled / divisor + i128::from(scaled % divisor != 0)
        };
        Ok(Quantity { millis: if negative { -millis } else { millis } })
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
    /// The canonical decimal form: the greatest suffix that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis % 1000 != 0 {
            return write!(f, "{}m", self.millis);
        }
        let mut value = self.millis / 1000;
        let mut suffix = "";
        for next in ["k", "M", "G", "T", "P", "E"] {
            if value == 0 || value % 1000 != 0 {
                break;
            }
            value /= 1000;
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

    proptest! {
        #[test]
        fn what_is_shown_is_read(millis in -1_000_000_000_000i128..1_000_000_000_000) {
            let quantity = Quantity::from_millis(millis);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = text.parse::<Quantity>();
        }
    }
}

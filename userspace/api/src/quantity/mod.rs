//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Exact to a billionth, as upstream.

mod amount;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

pub use amount::BadQuantity;
use amount::{Amount, Notation};

/// A number of billionths, and the notation it was written in. Equality and order ignore the notation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    notation: Notation,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
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
        self.nanos.cmp(&other.nanos)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

/// Billionths in a thousandth.
const NANOS_IN_MILLI: i128 = 1_000_000;
/// Billionths in one.
const NANOS_IN_ONE: i128 = 1_000_000_000;

impl Quantity {
    /// A quantity of thousandths, in decimal notation.
    pub fn from_millis(millis: i128) -> Quantity {
        Quantity { nanos: millis.saturating_mul(NANOS_IN_MILLI), notation: Notation::Decimal }
    }

    /// A quantity of billionths, in decimal notation.
    pub fn from_nanos(nanos: i128) -> Quantity {
        Quantity { nanos, notation: Notation::Decimal }
    }

    /// A quantity of bytes, in binary notation.
    pub fn from_bytes(bytes: i128) -> Quantity {
        Quantity { nanos: bytes.saturating_mul(NANOS_IN_ONE), notation: Notation::Binary }
    }

    /// Thousandths, rounded away from zero as upstream's `MilliValue()`.
    pub fn millis(self) -> i128 {
        div_away_from_zero(self.nanos, NANOS_IN_MILLI)
    }

    /// The nearest number of this type.
    pub fn to_f64(self) -> f64 {
        self.nanos as f64 / NANOS_IN_ONE as f64
    }

    /// Whole units, rounded away from zero as upstream's `Value()`.
    pub fn value(self) -> i128 {
        div_away_from_zero(self.nanos, NANOS_IN_ONE)
    }

    /// The sum, bounded by the number type.
    pub fn saturating_add(self, other: Quantity) -> Quantity {
        self.with(self.nanos.saturating_add(other.nanos), other)
    }

    /// The difference, bounded by the number type; may be negative.
    pub fn saturating_sub(self, other: Quantity) -> Quantity {
        self.with(self.nanos.saturating_sub(other.nanos), other)
    }

    /// Keeps the notation of `self`, unless `self` is zero.
    fn with(self, nanos: i128, other: Quantity) -> Quantity {
        let notation = if self.nanos == 0 { other.notation } else { self.notation };
        Quantity { nanos, notation }
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Rounded up to a whole number.
    pub fn rounded_up(self) -> Quantity {
        Quantity { nanos: self.value().saturating_mul(NANOS_IN_ONE), notation: self.notation }
    }

    /// The canonical form of a text; nothing if the text is canonical.
    pub fn canonical(text: &str) -> Result<Option<String>, BadQuantity> {
        amount::canonical(text, amount::NANO)
    }

    /// As [`Self::canonical`], in a list of resources: upstream rounds their amounts up to thousandths.
    pub fn canonical_resource(text: &str) -> Result<Option<String>, BadQuantity> {
        amount::canonical(text, -3)
    }
}

fn div_away_from_zero(number: i128, divisor: i128) -> i128 {
    number / divisor + (number % divisor).signum()
}

impl FromStr for Quantity {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let (amount, _) = Amount::parse(text)?;
        // An amount has at least the exponent of a billionth.
        let power = amount.exponent.saturating_sub(amount::NANO).unsigned_abs();
        let factor = 10i128.checked_pow(power).unwrap_or(i128::MAX);
        let nanos = i128::try_from(amount.digits).unwrap_or(i128::MAX).saturating_mul(factor);
        Ok(Quantity { nanos: if amount.is_negative { -nanos } else { nanos }, notation: amount.notation })
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the greatest suffix of the notation that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (is_negative, digits) = (self.nanos < 0, self.nanos.unsigned_abs());
        Amount { is_negative, digits, exponent: amount::NANO, notation: self.notation }.fmt(f)
    }
}

#[cfg(test)]
mod tests;

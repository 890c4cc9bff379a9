//! The text of a quantity, as upstream's resource.Quantity reads and writes it. In: a text. Out: an exact decimal amount with
//! the notation of its suffix, or the text in its canonical form.

use std::fmt::{self, Write};

/// Digits of an amount that are kept; the rest of a `u128` is room to move its exponent.
const MAX_DIGITS: u32 = 36;
/// The least exponent: smaller amounts are rounded up to it.
pub(super) const NANO: i32 = -9;
/// Digits of decimal amounts that upstream keeps in 64 bits, without making them canonical.
const MAX_SMALL_DIGITS: usize = 18;

/// The notation of a quantity. Sums keep it: `Mi` plus `Mi` is displayed in `Mi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Notation {
    #[default]
    Decimal,
    Binary,
    Exponent,
}

/// A text that is no quantity, with upstream's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuantity {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// `digits` times ten to the power of `exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    pub(super) is_negative: bool,
    pub(super) digits: u128,
    pub(super) exponent: i32,
    pub(super) notation: Notation,
}

/// The parts of a text: `-`, `1`, `5`, `Gi` of `-1.5Gi`.
struct Parts<'a> {
    is_negative: bool,
    /// Without leading zeros.
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Parts<'a>, BadQuantity> {
        if text.is_empty() {
            return Err(BadQuantity::Form);
        }
        let rest = text.strip_prefix(['+', '-']).unwrap_or(text).trim_start_matches('0');
        let (whole, rest) = digits(rest);
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), digits);
        let after_letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let power = after_letters.strip_prefix(['+', '-']).unwrap_or(after_letters);
        if !digits(power).1.is_empty() {
            return Err(BadQuantity::Form);
        }
        Ok(Parts { is_negative: text.starts_with('-'), whole, fraction, suffix })
    }

    /// All digits as a number.
    fn number(&self) -> Result<u128, BadQuantity> {
        let mut number = 0u128;
        for digit in self.whole.bytes().chain(self.fraction.bytes()) {
            number = number * 10 + u128::from(digit - b'0');
            if number >= 10u128.pow(MAX_DIGITS) {
                return Err(BadQuantity::Number);
            }
        }
        Ok(number)
    }

    /// Whether the digits, without the dot, end with three zeros.
    fn ends_with_thousands(&self) -> bool {
        let (whole, fraction) = (self.whole.bytes().rev(), self.fraction.bytes().rev());
        let zeros = fraction.chain(whole).take_while(|digit| *digit == b'0').count();
        zeros >= 3
    }
}

/// The digits at the start of a text, and the rest.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// A suffix as a notation and its power of ten, or of two.
fn scale(suffix: &str) -> Result<(Notation, i32), BadQuantity> {
    Ok(match suffix {
        "" => (Notation::Decimal, 0),
        "n" => (Notation::Decimal, -9),
        "u" => (Notation::Decimal, -6),
        "m" => (Notation::Decimal, -3),
        "k" => (Notation::Decimal, 3),
        "M" => (Notation::Decimal, 6),
        "G" => (Notation::Decimal, 9),
        "T" => (Notation::Decimal, 12),
        "P" => (Notation::Decimal, 15),
        "E" => (Notation::Decimal, 18),
        "Ki" => (Notation::Binary, 10),
        "Mi" => (Notation::Binary, 20),
        "Gi" => (Notation::Binary, 30),
        "Ti" => (Notation::Binary, 40),
        "Pi" => (Notation::Binary, 50),
        "Ei" => (Notation::Binary, 60),
        _ => {
            let power = suffix.strip_prefix(['e', 'E']).ok_or(BadQuantity::Suffix)?;
            let power: i64 = power.parse().map_err(|_| BadQuantity::Suffix)?;
            // Upstream cuts the power to 32 bits, and fails for the ends of their range.
            let power = power as i32;
            if !(-1_000_000..=1_000_000).contains(&power) {
                return Err(BadQuantity::Suffix);
            }
            (Notation::Exponent, power)
        }
    })
}

impl Amount {
    /// Reads a text. Also whether it is canonical: upstream keeps small amounts as they are written, such as `+1` or `1.500`.
    pub(super) fn parse(text: &str) -> Result<(Amount, bool), BadQuantity> {
        let parts = Parts::of(text)?;
        let (notation, power) = scale(parts.suffix)?;
        let (number, is_negative) = (parts.number()?, parts.is_negative);
        let (whole, fraction) = (parts.whole.len().max(1), parts.fraction.len());
        let places = i32::try_from(fraction).map_err(|_| BadQuantity::Number)?;
        if notation == Notation::Binary {
            // A number below 10^36 times 2^60 may exceed the type; it is capped anyway.
            let digits = number.saturating_mul(1 << power);
            let is_small = fraction == 0 && whole as i32 + power * 3 / 10 < 15;
            let amount = Amount { is_negative, digits, exponent: -places, notation };
            return Ok(if is_small { (amount, number & 7 != 0) } else { (amount.bounded(), false) });
        }
        let exponent = power - places;
        let amount = Amount { is_negative, digits: number, exponent, notation };
        if whole + fraction > MAX_SMALL_DIGITS || exponent < NANO {
            return Ok((amount.rounded_up_to(NANO), false));
        }
        let is_canonical = exponent % 3 == 0 && !parts.whole.is_empty() && !parts.ends_with_thousands();
        Ok((amount, is_canonical))
    }

    /// Rounded away from zero to a multiple of ten to the power of `exponent`.
    pub(super) fn rounded_up_to(self, exponent: i32) -> Amount {
        let dropped = exponent.saturating_sub(self.exponent);
        if dropped <= 0 {
            return self;
        }
        let divisor = 10u128.checked_pow(dropped.unsigned_abs()).unwrap_or(u128::MAX);
        Amount { digits: self.digits.div_ceil(divisor), exponent, ..self }
    }

    /// A binary amount within 63 bits. One below 1 becomes decimal.
    fn bounded(self) -> Amount {
        const MAX: u128 = i64::MAX as u128;
        let rounded = self.rounded_up_to(NANO);
        let one = 10u128.pow(rounded.exponent.min(0).unsigned_abs());
        if rounded.digits > MAX * one {
            return Amount { digits: MAX, exponent: 0, ..rounded };
        }
        if rounded.digits < one {
            return Amount { notation: Notation::Decimal, ..rounded };
        }
        rounded
    }

    /// The amount as a whole number; nothing if it is none.
    fn whole(&self) -> Option<u128> {
        let power = 10u128.checked_pow(self.exponent.unsigned_abs())?;
        match self.exponent {
            0.. => self.digits.checked_mul(power),
            _ => self.digits.is_multiple_of(power).then(|| self.digits / power),
        }
    }

    /// Writes the canonical form: the greatest suffix of the notation that leaves no fraction.
    fn write(self, out: &mut impl Write) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        if self.digits == 0 {
            return out.write_char('0');
        }
        if self.is_negative {
            out.write_char('-')?;
        }
        if self.notation == Notation::Binary
            && let Some(mut number) = self.whole().filter(|number| *number >= 1024)
        {
            let mut suffixes = BINARY.iter();
            let mut suffix = suffixes.next();
            while number.is_multiple_of(1024) {
                number /= 1024;
                suffix = suffixes.next();
            }
            return write!(out, "{number}{}", suffix.unwrap_or(&""));
        }
        let (mut digits, mut exponent) = (self.digits, self.exponent);
        while digits.is_multiple_of(10) {
            digits /= 10;
            exponent = exponent.saturating_add(1);
        }
        while exponent % 3 != 0 {
            digits = digits.saturating_mul(10);
            exponent -= 1;
        }
        match (self.notation, exponent) {
            (_, 0) => write!(out, "{digits}"),
            (Notation::Exponent, _) => write!(out, "{digits}e{exponent}"),
            // As upstream: an amount beyond the suffixes has none.
            _ => write!(out, "{digits}{}", decimal_suffix(exponent)),
        }
    }
}

fn decimal_suffix(exponent: i32) -> &'static str {
    match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => "",
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

/// Compares what is written with a text.
struct Same<'a> {
    rest: &'a str,
}

impl Write for Same<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.rest = self.rest.strip_prefix(part).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// The canonical form of a text; nothing if the text is canonical. With `resolution`, amounts are rounded up to a multiple of
/// this power of ten.
pub(super) fn canonical(text: &str, resolution: i32) -> Result<Option<String>, BadQuantity> {
    let (amount, is_canonical) = Amount::parse(text)?;
    let rounded = amount.rounded_up_to(resolution);
    if is_canonical && rounded.exponent == amount.exponent {
        return Ok(None);
    }
    let mut same = Same { rest: text };
    let is_same = rounded.write(&mut same).is_ok() && same.rest.is_empty();
    Ok((!is_same).then(|| rounded.to_string()))
}

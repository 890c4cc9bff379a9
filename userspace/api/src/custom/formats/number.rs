//! Formats of numbers with a check digit: cards and books.

use crate::regexp::matches;

const CARD: &str = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$";

pub(super) fn is_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    matches(CARD, &digits) && luhn(&digits).is_multiple_of(10)
}

/// The sum of Luhn's algorithm (ISO/IEC 7812).
fn luhn(digits: &str) -> u32 {
    let values = digits.chars().rev().filter_map(|c| c.to_digit(10));
    values
        .enumerate()
        .map(|(at, digit)| if at % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum()
}

/// The text without hyphens and blanks.
fn plain(text: &str) -> String {
    text.chars().filter(|c| *c != '-' && !c.is_ascii_whitespace()).collect()
}

pub(super) fn is_isbn10(text: &str) -> bool {
    let text = plain(text);
    let digits = text.chars().map(|c| c.to_digit(10).unwrap_or(10));
    matches("^(?:[0-9]{9}X|[0-9]{10})$", &text)
        && digits.zip((1..=10).rev()).map(|(digit, weight)| digit * weight).sum::<u32>() % 11 == 0
}

pub(super) fn is_isbn13(text: &str) -> bool {
    let text = plain(text);
    let digits = text.chars().filter_map(|c| c.to_digit(10));
    matches("^[0-9]{13}$", &text)
        && digits.zip([1, 3].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum::<u32>() % 10 == 0
}

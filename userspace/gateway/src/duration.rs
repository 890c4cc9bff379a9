//! Durations as Gateway API writes them (GEP-2257). PURE.

use std::time::Duration;

/// Up to four numbers with the units h, m, s and ms. `None`: it is none.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|next: char| !next.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|next: char| next.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit);
        let ms: u64 = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        total = total.saturating_add(Duration::from_millis(number.saturating_mul(ms)));
        rest = next;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("500ms", 500), ("1m30s", 90_000), ("0s", 0), ("1h", 3_600_000), ("1s5ms", 1_005)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["5", "s", "-1s", "1.5s", "1d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}

//! How fast the body of a response is sent.

use std::time::Duration;

/// The first bytes go out at once, the others at a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub free_bytes: u64,
    /// Not 0.
    pub bytes_per_second: u64,
}

impl Pace {
    /// How long after the first byte the next one may be sent, when so many have been.
    pub(crate) fn due(&self, sent: u64) -> Duration {
        let Pace { free_bytes, bytes_per_second } = *self;
        let paced = u128::from(sent.saturating_sub(free_bytes));
        let millis = paced.saturating_mul(1_000) / u128::from(bytes_per_second.max(1));
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_due_at_once() {
        let pace = Pace { free_bytes: 1_000, bytes_per_second: 500 };
        let due = [0, 1_000, 1_500, 6_000].map(|sent| pace.due(sent).as_millis());
        assert_eq!(due, [0, 0, 1_000, 10_000]);
        assert!(pace.due(u64::MAX) > Duration::from_secs(1 << 40));
    }
}

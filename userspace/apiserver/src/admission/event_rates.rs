//! The rates at which events of namespaces and users were admitted.

use std::collections::HashMap;
use std::time::Instant;

use crate::lock::Lock;

/// Namespaces, and users, whose rate is known; with more, those that were not limited are forgotten.
const MAX_KNOWN: usize = 4_096;

/// The rates of all namespaces and users.
#[derive(Default)]
pub(super) struct EventRates {
    pub(super) namespaces: Lock<HashMap<String, Bucket>>,
    pub(super) users: Lock<HashMap<String, Bucket>>,
}

/// Tokens that refill with time; each event takes one.
#[derive(Clone, Copy)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

/// Takes a token of a rate a second and a burst; false if there is none.
pub(super) fn take(
    all: &mut HashMap<String, Bucket>,
    key: &str,
    (rate, burst): (f64, f64),
    now: Instant,
) -> bool {
    let refilled = |bucket: &Bucket| {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        passed.mul_add(rate, bucket.tokens).min(burst)
    };
    if all.len() >= MAX_KNOWN && !all.contains_key(key) {
        all.retain(|_, bucket| refilled(bucket) < burst);
    }
    let tokens = all.get(key).map_or(burst, refilled);
    let allowed = tokens >= 1.0;
    all.insert(key.to_owned(), Bucket { tokens: if allowed { tokens - 1.0 } else { tokens }, at: now });
    allowed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let (mut all, start) = (HashMap::new(), Instant::now());
        let mut taken = |key: &str, after: Duration, tries: usize| {
            (0..tries).filter(|_| take(&mut all, key, (10.0, 50.0), start + after)).count()
        };
        assert_eq!(taken("a", Duration::ZERO, 100), 50);
        assert_eq!(taken("a", Duration::from_secs(1), 100), 10);
        assert_eq!(taken("b", Duration::from_secs(1), 100), 50);
        assert_eq!(taken("a", Duration::from_secs(100), 100), 50);
    }
}

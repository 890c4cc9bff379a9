//! When a certificate is ordered: at once while there is none that serves, at two thirds of its lifetime or when its authority says so,
//! and after failures later and later.

use std::time::Duration;

use super::stored::Stored;
use super::wanted::{Fault, Wanted};

/// How orders are repeated and how long they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure; doubled by each further one. Authorities count failures: five an hour for a name are usual.
    pub first_retry: Duration,
    pub max_retry: Duration,
    /// After a refusal for too many requests that says no time.
    pub rate_limited: Duration,
    /// How long nodes get to learn what answers a challenge, before the authority is asked to look.
    pub propagation: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            first_retry: Duration::from_secs(300),
            max_retry: Duration::from_secs(6 * 3_600),
            rate_limited: Duration::from_secs(3_600),
            propagation: Duration::from_secs(3),
        }
    }
}

/// Why an order failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: String,
    /// The authority refuses for too many requests.
    pub is_rate_limit: bool,
    /// When it may be asked again, if it says so, in seconds since 1970.
    pub retry_at: Option<i64>,
}

/// The orders for a certificate since the last one that was issued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    pub is_running: bool,
    failures: u32,
    last: Option<(String, i64)>,
}

impl Attempts {
    /// An order failed at `now`, in seconds since 1970.
    pub fn failed(&mut self, failure: Failure, pace: &Pace, now: i64) {
        let Failure { error, is_rate_limit, retry_at } = failure;
        let doubled = pace.first_retry.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let own = doubled.min(pace.max_retry);
        let wait = if is_rate_limit { own.max(pace.rate_limited) } else { own };
        let by_own = now.saturating_add(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX));
        // An authority that names a time knows better than a guess, and is never asked before it.
        let at = match retry_at {
            Some(at) if is_rate_limit => at.max(now.saturating_add(1)),
            Some(at) => at.max(by_own),
            None => by_own,
        };
        *self = Attempts {
            is_running: false,
            failures: self.failures.saturating_add(1),
            last: Some((error, at)),
        };
    }

    pub fn fault(&self) -> Option<Fault> {
        self.last.as_ref().map(|(error, at)| Fault::Order(error.clone(), *at))
    }

    fn retry_at(&self) -> Option<i64> {
        self.last.as_ref().map(|(_, at)| *at)
    }
}

/// What to do about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Order,
    /// An order is at work, or the Secret was not looked for yet.
    Wait,
    /// Nothing before this time, in seconds since 1970.
    Until(i64),
    Refuse(Fault),
}

/// What to do about a certificate at `now`, in seconds since 1970. `stored`: its Secret, once it was looked for. `renew_at`: when its
/// authority suggests to renew it.
pub fn plan(
    wanted: &Wanted,
    directory: &str,
    stored: Option<&Stored>,
    attempts: &Attempts,
    renew_at: Option<i64>,
    now: i64,
) -> Step {
    let Some(stored) = stored.filter(|_| !attempts.is_running) else { return Step::Wait };
    let due = match stored {
        Stored::Foreign => return Step::Refuse(Fault::ForeignSecret),
        Stored::Missing | Stored::Broken => now,
        Stored::Issued { directory: of, names, .. } if of != directory || *names != wanted.names => now,
        Stored::Issued { not_before, not_after, .. } => {
            let two_thirds = not_after - (not_after - not_before) / 3;
            renew_at.unwrap_or(two_thirds).min(*not_after)
        }
    };
    match due.max(attempts.retry_at().unwrap_or(due)) {
        at if at <= now => Step::Order,
        at => Step::Until(at),
    }
}

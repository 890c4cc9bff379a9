//! Passive health: an endpoint that does not answer gets no requests for a time. PURE; the time is passed in.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Failures in a row after which an endpoint is ejected.
const MAX_FAILURES: u32 = 3;
/// The first ejection; each further one in a row takes twice as long.
const FIRST_EJECTION_MS: u64 = 2_000;
const MAX_EJECTION_MS: u64 = 60_000;
/// Retries that are earned and not spent.
const MAX_SAVED_RETRIES: u64 = 100;
/// What each request earns, in hundredths of a retry.
const EARNED_PER_REQUEST: u64 = 20;

/// Of one endpoint. Times are in milliseconds of any clock that does not go back.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failures: AtomicU32,
    ejections: AtomicU32,
    ejected_until: AtomicU64,
}

impl Health {
    pub(crate) fn is_available(&self, now_ms: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) <= now_ms
    }

    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 || self.ejections.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether this failure ejects the endpoint.
    pub(crate) fn failed(&self, now_ms: u64) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < MAX_FAILURES || !self.is_available(now_ms) {
            return false;
        }
        let before = self.ejections.fetch_add(1, Ordering::Relaxed).min(10);
        let time = (FIRST_EJECTION_MS << before).min(MAX_EJECTION_MS);
        self.ejected_until.store(now_ms.saturating_add(time), Ordering::Relaxed);
        true
    }
}

/// Bounds retries to a part of the requests, so that they do not add to the load of endpoints that fail under it.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    hundredths: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { hundredths: AtomicU64::new(MAX_SAVED_RETRIES * 100) }
    }
}

impl RetryBudget {
    pub(crate) fn earn(&self) {
        // Between the two a little more may be saved.
        if self.hundredths.load(Ordering::Relaxed) < MAX_SAVED_RETRIES * 100 {
            self.hundredths.fetch_add(EARNED_PER_REQUEST, Ordering::Relaxed);
        }
    }

    pub(crate) fn spend(&self) -> bool {
        let spend = |saved: u64| saved.checked_sub(100);
        self.hundredths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_fails_is_left_alone_for_ever_longer_times() {
        let health = Health::default();
        assert!(!health.failed(0) && !health.failed(0) && health.is_available(0));
        assert!(health.failed(0) && !health.is_available(1_999) && health.is_available(2_000));
        assert!(!health.failed(1_000), "it is ejected already");
        assert!(health.failed(2_000) && !health.is_available(5_999) && health.is_available(6_000));
        for _ in 0..20 {
            health.failed(1_000_000);
        }
        assert!(health.is_available(1_060_000));
        health.succeeded();
        assert!(!health.failed(2_000_000) && health.is_available(2_000_000));
    }

    #[test]
    fn five_requests_earn_a_retry() {
        let budget = RetryBudget::default();
        let spent = (0..1_000).filter(|_| budget.spend()).count();
        assert_eq!(spent, 100);
        (0..10).for_each(|_| budget.earn());
        assert!(budget.spend() && budget.spend() && !budget.spend());
    }
}

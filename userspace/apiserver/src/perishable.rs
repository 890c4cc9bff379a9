//! What a slow client may hold in memory: given up when it takes nothing for too long.
//!
//! A response's body is not polled while its client reads nothing, so it cannot watch the time itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::lock::Lock;

/// As the deadline of a request: the time without progress after which a client has given up, or may as well.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A value that is dropped when it was not used for [`STALL_TIMEOUT`].
pub(crate) struct Perishable<T> {
    shared: Arc<Lock<Kept<T>>>,
    watchdog: AbortHandle,
}

struct Kept<T> {
    value: Option<T>,
    used: Instant,
}

impl<T: Send + 'static> Perishable<T> {
    pub(crate) fn new(value: T) -> Perishable<T> {
        Perishable::with_timeout(value, STALL_TIMEOUT)
    }

    fn with_timeout(value: T, stall: Duration) -> Perishable<T> {
        let shared = Arc::new(Lock::new(Kept { value: Some(value), used: Instant::now() }));
        let watched = shared.clone();
        let watchdog = tokio::spawn(async move {
            loop {
                let due = watched.lock().used + stall;
                tokio::time::sleep_until(due).await;
                let mut kept = watched.lock();
                if kept.used + stall <= Instant::now() {
                    kept.value = None;
                    return;
                }
            }
        });
        Perishable { shared, watchdog: watchdog.abort_handle() }
    }
}

impl<T> Perishable<T> {
    /// Uses the value; `None` if it was given up.
    pub(crate) fn with<R>(&self, usage: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut kept = self.shared.lock();
        kept.used = Instant::now();
        kept.value.as_mut().map(usage)
    }
}

impl<T> Drop for Perishable<T> {
    fn drop(&mut self) {
        self.watchdog.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_used_is_given_up() {
        let value = Arc::new(());
        let perishable = Perishable::with_timeout(value.clone(), Duration::from_millis(20));
        assert!(perishable.with(|_| ()).is_some(), "it is in use");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&value) > 1 {
            assert!(Instant::now() < deadline, "it was not given up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(perishable.with(|_| ()).is_none());
    }
}

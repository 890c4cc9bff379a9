//! Locks that let the quota charges of one server to one namespace follow one another, instead of conflicting in the store.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lock::Lock;

/// Locks that are kept although they are not held.
const MAX_IDLE_LOCKS: usize = 1_024;

/// A lock for each namespace that has quotas.
#[derive(Default)]
pub(crate) struct QuotaLocks(Lock<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl QuotaLocks {
    pub(super) fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        // Locks that are not held are dropped when there are many.
        if locks.len() > MAX_IDLE_LOCKS {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        locks.entry(namespace.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_lock() {
        let locks = QuotaLocks::default();
        assert!(Arc::ptr_eq(&locks.of("a"), &locks.of("a")));
        assert!(!Arc::ptr_eq(&locks.of("a"), &locks.of("b")));
        for n in 0..3_000 {
            let _ = locks.of(&n.to_string());
        }
        assert!(locks.0.lock().len() <= 1_025);
    }
}

//! The state of admission that outlives a request.

use super::hook_sources::HookSources;
use super::quota_locks::QuotaLocks;
use crate::stored::Storage;

/// The objects that plugins read, the registered hooks, and the locks of quotas.
pub(crate) struct Admission {
    pub(super) storage: Storage,
    pub(super) hooks: HookSources,
    pub(super) quota_locks: QuotaLocks,
}

impl Admission {
    pub(crate) fn new(storage: Storage) -> Admission {
        let hooks = HookSources::new(&storage.caches);
        Admission { storage, hooks, quota_locks: QuotaLocks::default() }
    }
}

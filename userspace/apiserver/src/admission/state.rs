//! The state of admission that outlives a request.

use std::net::SocketAddr;

use super::event_rates::EventRates;
use super::hook_sources::HookSources;
use super::optional::OptionalPlugin;
use super::quota_locks::QuotaLocks;
use crate::config::{AccessRules, ServiceNetwork};
use crate::stored::Storage;

/// The objects that plugins read, the registered hooks, and the locks of quotas.
pub(crate) struct Admission {
    pub(super) storage: Storage,
    pub(super) hooks: HookSources,
    pub(super) quota_locks: QuotaLocks,
    pub(super) rules: AccessRules,
    pub(super) services: ServiceNetwork,
    /// This server's address.
    pub(super) advertise: SocketAddr,
    pub(super) event_rates: EventRates,
}

impl Admission {
    pub(crate) fn new(
        storage: Storage,
        rules: AccessRules,
        services: ServiceNetwork,
        advertise: SocketAddr,
    ) -> Admission {
        let hooks = HookSources::new(&storage.caches);
        let (quota_locks, event_rates) = (QuotaLocks::default(), EventRates::default());
        Admission { storage, hooks, quota_locks, rules, services, advertise, event_rates }
    }

    pub(super) fn runs(&self, plugin: OptionalPlugin) -> bool {
        self.rules.plugins.contains(&plugin)
    }
}

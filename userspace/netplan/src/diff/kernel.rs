//! What the kernel holds, tracked write by write, and which backend sets nothing refers to any more.

use std::collections::{BTreeSet, HashMap};

use skep_abi::{Backend, BackendKey, ServiceKey, ServiceValue};

use crate::write::{Observed, Write};

#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) maps: Observed,
    /// Frontends that use a set.
    users: HashMap<u32, u32>,
    /// Sets with slots and without frontends.
    idle: BTreeSet<u32>,
}

impl Kernel {
    pub(crate) fn new(observed: Observed) -> Self {
        let mut kernel = Kernel::default();
        for value in observed.services.values().filter(|value| value.count > 0) {
            *kernel.users.entry(value.set).or_default() += 1;
        }
        let sets = observed.backends.keys().map(|key| key.set);
        kernel.idle = sets.filter(|set| !kernel.users.contains_key(set)).collect();
        kernel.maps = observed;
        kernel
    }

    pub(crate) fn apply(&mut self, write: &Write) {
        match write {
            Write::PutService(key, value) => {
                self.acquire(value);
                self.release(key);
            }
            Write::DeleteService(key) => self.release(key),
            _ => {}
        }
        self.maps.apply(write);
        match write {
            Write::PutBackend(key, _) if !self.users.contains_key(&key.set) => {
                self.idle.insert(key.set);
            }
            Write::DeleteBackend(key) if self.set(key.set).next().is_none() => {
                self.idle.remove(&key.set);
            }
            _ => {}
        }
    }

    fn acquire(&mut self, value: &ServiceValue) {
        if value.count > 0 {
            *self.users.entry(value.set).or_default() += 1;
            self.idle.remove(&value.set);
        }
    }

    fn release(&mut self, key: &ServiceKey) {
        let Some(value) = self.maps.services.get(key).filter(|value| value.count > 0) else { return };
        if let Some(users) = self.users.get_mut(&value.set) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&value.set);
                self.idle.insert(value.set);
            }
        }
    }

    pub(crate) fn idle(&self) -> &BTreeSet<u32> {
        &self.idle
    }

    /// Slots and backends of a set, in order.
    pub(crate) fn set(&self, set: u32) -> impl Iterator<Item = (&BackendKey, &Backend)> {
        let ends = BackendKey { set, slot: 0 }..=BackendKey { set, slot: u32::MAX };
        self.maps.backends.range(ends)
    }

    /// Whether the set's slots are exactly these.
    pub(crate) fn holds(&self, set: u32, backends: &[Backend]) -> bool {
        let slots = self.set(set).map(|(key, backend)| (key.slot as usize, backend));
        slots.eq(backends.iter().enumerate())
    }
}

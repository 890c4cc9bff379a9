//! What the kernel holds, tracked write by write, and which backend sets and source ranges nothing refers to
//! any more.

use std::collections::{BTreeSet, HashMap};

use skep_abi::{Addr, Backend, BackendKey, ServiceKey, ServiceValue};

use crate::write::{Observed, Prefix, Write};

#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) maps: Observed,
    /// Backend sets.
    pub(crate) sets: Numbers,
    /// Lists of source ranges.
    pub(crate) ranges: Numbers,
}

/// What has a number and is used by frontends.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    users: HashMap<u32, u32>,
    /// There, and used by no frontend.
    idle: BTreeSet<u32>,
}

impl Numbers {
    pub(crate) fn idle(&self) -> &BTreeSet<u32> {
        &self.idle
    }

    fn acquire(&mut self, number: u32) {
        *self.users.entry(number).or_default() += 1;
        self.idle.remove(&number);
    }

    fn release(&mut self, number: u32) {
        let Some(users) = self.users.get_mut(&number) else { return };
        *users -= 1;
        if *users == 0 {
            self.users.remove(&number);
            self.idle.insert(number);
        }
    }

    /// Something of it is there now.
    fn filled(&mut self, number: u32) {
        if !self.users.contains_key(&number) {
            self.idle.insert(number);
        }
    }
}

impl Kernel {
    pub(crate) fn new(observed: Observed) -> Self {
        let mut kernel = Kernel::default();
        observed.services.values().for_each(|value| kernel.acquire(value));
        observed.backends.keys().for_each(|key| kernel.sets.filled(key.set));
        observed.ranges.iter().for_each(|(list, _)| kernel.ranges.filled(*list));
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
            Write::PutBackend(key, _) => self.sets.filled(key.set),
            Write::DeleteBackend(key) if self.set(key.set).next().is_none() => {
                self.sets.idle.remove(&key.set);
            }
            Write::PutRange { list, .. } => self.ranges.filled(*list),
            Write::DeleteRange { list, .. } if self.list(*list).next().is_none() => {
                self.ranges.idle.remove(list);
            }
            _ => {}
        }
    }

    fn acquire(&mut self, value: &ServiceValue) {
        if value.count > 0 {
            self.sets.acquire(value.set);
        }
        if value.ranges != 0 {
            self.ranges.acquire(value.ranges);
        }
    }

    fn release(&mut self, key: &ServiceKey) {
        let Some(value) = self.maps.services.get(key) else { return };
        if value.count > 0 {
            self.sets.release(value.set);
        }
        if value.ranges != 0 {
            self.ranges.release(value.ranges);
        }
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

    /// The prefixes of a list of source ranges, in order.
    pub(crate) fn list(&self, list: u32) -> impl Iterator<Item = Prefix> {
        let ends = (list, (0, Addr::UNSPECIFIED))..=(list, (u32::MAX, Addr([u32::MAX; 4])));
        self.maps.ranges.range(ends).map(|(_, prefix)| *prefix)
    }
}

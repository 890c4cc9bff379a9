//! What the kernel holds, tracked write by write, and how many frontends use each backend set, Maglev table and list of
//! source ranges.
//!
//! In: the maps' content at the start, then each write that succeeded. Out: contents by number, and unused numbers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use skep_abi::{Addr, Backend, MaglevKey, MaglevPage, ServiceKey, ServiceValue, maglev_size};

use crate::datagram_services::DatagramServices;
use crate::index::compact;
use crate::write::{Observed, Prefix, Write, pages};

/// The maps, with use counts.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) maps: Observed,
    /// Backend sets.
    pub(crate) sets: UseCounts,
    /// Lists of source ranges.
    pub(crate) ranges: UseCounts,
    /// Maglev tables, by the number of their set.
    pub(crate) tables: UseCounts,
    pub(crate) datagrams: DatagramServices,
}

/// Frontends that use each number.
#[derive(Debug, Default)]
pub(crate) struct UseCounts {
    users: HashMap<u32, u32>,
    /// In the maps, and used by no frontend.
    idle: BTreeSet<u32>,
}

impl UseCounts {
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

    /// The maps have an entry of the number now.
    fn filled(&mut self, number: u32) {
        if !self.users.contains_key(&number) {
            self.idle.insert(number);
        }
    }
}

impl Kernel {
    pub(crate) fn new(observed: Observed) -> Self {
        let mut kernel = Kernel::default();
        observed.services.iter().for_each(|(key, value)| kernel.acquire(key, value));
        observed.backends.keys().for_each(|key| kernel.sets.filled(key.set));
        observed.maglev.keys().for_each(|key| kernel.tables.filled(key.set));
        observed.ranges.iter().for_each(|(list, _)| kernel.ranges.filled(*list));
        kernel.datagrams = DatagramServices::of(&observed);
        kernel.maps = observed;
        kernel
    }

    pub(crate) fn apply(&mut self, write: &Write) {
        match write {
            Write::PutService(key, value) => {
                self.acquire(key, value);
                self.release(key);
            }
            Write::DeleteService(key) => self.release(key),
            _ => {}
        }
        self.maps.apply(write);
        self.datagrams.apply(write, &self.maps);
        match write {
            Write::PutBackends(key, _) => self.sets.filled(key.set),
            Write::DeleteBackends(key) if self.maps.pages_of(key.set).next().is_none() => {
                self.sets.idle.remove(&key.set);
            }
            Write::PutRange { list, .. } => self.ranges.filled(*list),
            Write::DeleteRange { list, .. } if self.list(*list).next().is_none() => {
                self.ranges.idle.remove(list);
            }
            Write::PutMaglev(key, _) => self.tables.filled(key.set),
            Write::DeleteMaglev(key) if self.table(key.set).next().is_none() => {
                self.tables.idle.remove(&key.set);
            }
            _ => {}
        }
    }

    /// Takes less memory for the same content: maps that grew have half-empty nodes.
    pub(crate) fn compact(&mut self) {
        let Observed { services, other_ports, backends, classes, .. } = &mut self.maps;
        compact(services);
        compact(other_ports);
        compact(backends);
        classes.iter_mut().for_each(compact);
    }

    fn acquire(&mut self, key: &ServiceKey, value: &ServiceValue) {
        if value.count > 0 {
            self.sets.acquire(value.set);
        }
        if value.ranges != 0 {
            self.ranges.acquire(value.ranges);
        }
        if uses_table(key, value) {
            self.tables.acquire(value.set);
        }
    }

    fn release(&mut self, key: &ServiceKey) {
        let Some(value) = self.maps.services.get(key).copied() else { return };
        if value.count > 0 {
            self.sets.release(value.set);
        }
        if value.ranges != 0 {
            self.ranges.release(value.ranges);
        }
        if uses_table(key, &value) {
            self.tables.release(value.set);
            // A table that did not fit has no pages to delete.
            if self.table(value.set).next().is_none() {
                self.tables.idle.remove(&value.set);
            }
        }
    }

    /// Whether the set's slots are exactly these.
    pub(crate) fn holds(&self, set: u32, backends: &[Backend]) -> bool {
        let held = self.maps.pages_of(set).map(|(key, page)| (*key, *page));
        held.eq(pages(set, backends))
    }

    /// The prefixes of a list of source ranges, in order.
    pub(crate) fn list(&self, list: u32) -> impl Iterator<Item = Prefix> {
        let ends = (list, (0, Addr::UNSPECIFIED))..=(list, (u32::MAX, Addr([u32::MAX; 4])));
        self.maps.ranges.range(ends).map(|(_, prefix)| *prefix)
    }

    /// The pages of a set's Maglev table, in order.
    pub(crate) fn table(&self, set: u32) -> impl Iterator<Item = (&MaglevKey, &Arc<MaglevPage>)> {
        let ends = MaglevKey { set, page: 0 }..=MaglevKey { set, page: u32::MAX };
        self.maps.maglev.range(ends)
    }
}

/// Whether the frontend chooses backends by the Maglev table of its set.
fn uses_table(key: &ServiceKey, value: &ServiceValue) -> bool {
    key.scope.is_external() && maglev_size(value.count) > 0
}

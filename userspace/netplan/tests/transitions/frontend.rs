//! What the programs find for a frontend in the maps.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use skep_abi::{
    BACKEND_SLOTS, Backend, BackendKey, MAGLEV_SLOTS, MaglevKey, MaglevPage, OtherPorts, Scope, ServiceKey,
    ServiceValue, maglev_size,
};
use skep_netplan::{Observed, Prefix, maglev};

/// What a frontend does with a packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    affinity: u32,
    flags: u32,
    pub(crate) backends: Vec<Backend>,
    /// Its Maglev table is complete, if it needs one.
    pub(crate) has_whole_table: bool,
    /// Allowed sources; `None`: all.
    pub(crate) ranges: Option<BTreeSet<Prefix>>,
}

/// What refuses on the ports of an address that have no frontend.
const REFUSAL: ServiceValue = ServiceValue {
    set: 0,
    count: 0,
    service: 0,
    affinity_seconds: 0,
    flags: ServiceValue::REJECT,
    ranges: 0,
};

/// The frontend that the programs find; they look for smaller blocks of ports first.
fn find<'m>(maps: &'m Observed, key: &ServiceKey) -> Option<&'m ServiceValue> {
    let other_ports = || {
        let others = *maps.other_ports.get(&key.addr)?;
        let block = |level| ServiceKey::block(key.addr, key.port, key.proto, key.scope, level);
        let blocks = (1..=Scope::LEVELS).filter(|_| others & OtherPorts::BLOCKS != 0);
        let mut found = blocks.filter_map(|level| maps.services.get(&block(level)));
        let refuses = others & OtherPorts::REFUSED != 0 && key.scope == Scope::INTERNAL;
        found.next().or(refuses.then_some(&REFUSAL))
    };
    maps.services.get(key).or_else(other_ports)
}

/// `None`: there is no such frontend.
pub(crate) fn resolve(maps: &Observed, key: &ServiceKey) -> Option<Resolved> {
    let value = find(maps, key)?;
    let slot = |slot: u32| {
        let key = BackendKey { set: value.set, page: slot / BACKEND_SLOTS };
        maps.backends.get(&key).map(|page| page.backends[(slot % BACKEND_SLOTS) as usize])
    };
    // A missing slot loses packets; it becomes an address that neither state has.
    let backends: Vec<Backend> = (0..value.count).map(|number| slot(number).unwrap_or_default()).collect();
    let has_whole_table = key.scope != Scope::EXTERNAL || table_is_whole(maps, value.set, &backends);
    let listed = maps.ranges.iter().filter(|(list, _)| *list == value.ranges);
    let ranges = (value.ranges != 0).then(|| listed.map(|(_, prefix)| *prefix).collect());
    Some(Resolved { affinity: value.affinity_seconds, flags: value.flags, backends, has_whole_table, ranges })
}

fn table_is_whole(maps: &Observed, set: u32, backends: &[Backend]) -> bool {
    // Cached, since it is checked after every write, and the events lead to few distinct sets.
    thread_local!(static TABLES: RefCell<BTreeMap<Vec<Backend>, Vec<MaglevPage>>> = RefCell::default());
    TABLES.with_borrow_mut(|tables| {
        let pages = tables.entry(backends.to_vec()).or_insert_with(|| maglev::pages(backends));
        let key = |page| MaglevKey { set, page };
        pages.iter().zip(0..).all(|(page, n)| maps.maglev.get(&key(n)).is_some_and(|held| **held == *page))
    })
}

/// Pages of the tables of all sets that external frontends use.
pub(crate) fn pages_in_use(maps: &Observed) -> usize {
    let external = maps.services.iter().filter(|(key, _)| key.scope.is_external());
    let sets: BTreeSet<(u32, u32)> = external.map(|(_, value)| (value.set, value.count)).collect();
    sets.iter().map(|(_, count)| maglev_size(*count).div_ceil(MAGLEV_SLOTS) as usize).sum()
}

//! Changed services to writes: O(change), not O(all).
//!
//! In: keys of changed services, the index, the kernel. Out: [`ServiceWrites`]. A changed backend set is written under a
//! fresh number before its frontends switch to it, and so is a changed list of source ranges. The old ones are deleted
//! later, when no running program can still use the old frontend (see [`crate::Planner::collect`]). A set that the kernel
//! already has under a frontend is kept; this is also how an agent adopts the maps of its predecessor. Services with the
//! same backends share one set and its Maglev table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use skep_abi::{
    Addr, BACKEND_PAGES_MAX, BACKEND_SLOTS, Backend, RANGES_MAX, SERVICES_MAX, ServiceKey, ServiceValue,
    StableHasher,
};

use super::backend_set::{SetIndex, plan_table};
use super::kernel::Kernel;
use super::problem::Problem;
use crate::index::{Forwarding, Index, PortFacts, ServiceFacts};
use crate::service::{Frontend, NodeContext, ServicePlan, compile, is_other_ports, other_ports_key};
use crate::write::{Prefix, Write};

/// Which service owns which frontend.
#[derive(Debug, Default)]
pub(crate) struct ServiceState {
    owned: HashMap<Arc<str>, Owned>,
    owner: HashMap<ServiceKey, Arc<str>>,
    /// Services that want a frontend of another service.
    waiting: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
    /// The service ports by identity.
    identities: HashMap<u32, PortIdentity>,
    next_set: u32,
    next_list: u32,
    sets: SetIndex,
    problems: BTreeMap<Arc<str>, Problem>,
}

/// A service port, and the hash from which its identity was made.
#[derive(Debug)]
struct PortIdentity {
    hash: u64,
    service: Arc<str>,
    port: u16,
}

#[derive(Debug, Default)]
struct Owned {
    frontends: Box<[ServiceKey]>,
    identities: Box<[u32]>,
}

/// Writes by phase, to be performed in this order.
#[derive(Debug, Default)]
pub(crate) struct ServiceWrites {
    /// Backend sets and lists of source ranges that no frontend uses yet.
    pub(crate) backends: Vec<Write>,
    pub(crate) maglev: Vec<Write>,
    pub(crate) frontends: Vec<Write>,
    /// After all frontends: before its ports have theirs, nothing may refuse them.
    pub(crate) other_ports: Vec<Write>,
    pub(crate) deletes: Vec<Write>,
    /// Sets used by this plan, and those whose tables are in `maglev`.
    sets: HashMap<Box<[Backend]>, u32>,
    tables: BTreeSet<u32>,
}

impl ServiceState {
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values()
    }

    /// The service that owns the frontend.
    pub(crate) fn owner(&self, frontend: &ServiceKey) -> Option<&Arc<str>> {
        self.owner.get(frontend)
    }

    /// Key and port of the service with the identity.
    pub(crate) fn port(&self, identity: u32) -> Option<(&Arc<str>, u16)> {
        self.identities.get(&identity).map(|known| (&known.service, known.port))
    }

    /// Services that did not fit into the maps; to be planned again once entries were deleted.
    pub(crate) fn starved(&self) -> impl Iterator<Item = &Arc<str>> {
        let full = |problem: &&Problem| matches!(problem, Problem::ServicesFull { .. });
        self.problems.iter().filter(move |(_, problem)| full(problem)).map(|(key, _)| key)
    }

    /// `sweep`: also delete frontends of the kernel that no service owns.
    pub(crate) fn plan(
        &mut self,
        changed: &BTreeSet<Arc<str>>,
        index: &Index,
        node: &NodeContext,
        kernel: &Kernel,
        sweep: bool,
    ) -> ServiceWrites {
        self.sets.prune(kernel);
        let compiled =
            |key: &Arc<str>, facts| compile(&index.without_taken(facts), index.slices_of(key), node);
        let mut plans: BTreeMap<Arc<str>, Option<ServicePlan>> = BTreeMap::new();
        let mut released = BTreeSet::new();
        let mut queue: Vec<Arc<str>> = changed.iter().cloned().collect();
        while let Some(key) = queue.pop() {
            if plans.contains_key(&key) {
                continue;
            }
            self.problems.remove(&key);
            // A service that owns nothing releases nothing. At the start these are all of them, and their plans would take much
            // memory at once.
            let plan = self.owned.contains_key(&key).then(|| {
                let facts = index.services.get(&key);
                facts.map(|facts| compiled(&key, facts)).unwrap_or_default()
            });
            let freed = plan.as_ref().map(|plan| self.release(&key, plan)).unwrap_or_default();
            for frontend in freed {
                queue.extend(self.waiting.remove(&frontend).into_iter().flatten());
                released.insert(frontend);
            }
            plans.insert(key, plan);
        }
        let mut writes = ServiceWrites::default();
        for (key, plan) in plans {
            match index.services.get(&key) {
                Some(facts) => {
                    let plan = plan.unwrap_or_else(|| compiled(&key, facts));
                    self.claim(&key, facts, plan, kernel, &mut writes);
                }
                None => self.forget(&key),
            }
        }
        let maps = &kernel.maps;
        // Before its ports lose their frontends, the address must no longer refuse them.
        let addrs = sweep.then(|| maps.other_ports.keys().copied()).into_iter().flatten();
        let released_addrs = released.iter().filter(|key| is_other_ports(key)).map(|key| key.addr);
        let gone: BTreeSet<Addr> = addrs.chain(released_addrs).collect();
        let is_gone = |addr: &Addr| {
            maps.other_ports.contains_key(addr) && !self.owner.contains_key(&other_ports_key(*addr))
        };
        writes.deletes.extend(gone.into_iter().filter(is_gone).map(Write::DeleteOtherPorts));
        let orphans = sweep.then(|| maps.services.keys()).into_iter().flatten();
        // Version 10 of the ABI had other ports in `SERVICES`.
        let is_gone = |key: &&ServiceKey| {
            maps.services.contains_key(*key) && (!self.owner.contains_key(*key) || is_other_ports(key))
        };
        let gone: BTreeSet<&ServiceKey> = orphans.chain(&released).filter(is_gone).collect();
        writes.deletes.extend(gone.into_iter().map(|key| Write::DeleteService(*key)));
        writes
    }

    /// Releases the frontends that the service no longer wants, and returns them.
    fn release(&mut self, key: &Arc<str>, plan: &ServicePlan) -> Vec<ServiceKey> {
        let owned = self.owned.get(key).map(|owned| &*owned.frontends).unwrap_or_default();
        let unwanted: Vec<ServiceKey> =
            owned.iter().filter(|frontend| !plan.frontends.contains_key(*frontend)).copied().collect();
        for frontend in &unwanted {
            self.owner.remove(frontend);
        }
        unwanted
    }

    /// Removes a deleted service.
    fn forget(&mut self, key: &Arc<str>) {
        if let Some(owned) = self.owned.remove(key) {
            for identity in &owned.identities {
                self.identities.remove(identity);
            }
        }
        self.waiting.retain(|_, waiting| {
            waiting.remove(key);
            !waiting.is_empty()
        });
    }

    /// Takes the frontends that no other service owns, and writes them.
    fn claim(
        &mut self,
        key: &Arc<str>,
        facts: &ServiceFacts,
        mut plan: ServicePlan,
        kernel: &Kernel,
        writes: &mut ServiceWrites,
    ) {
        plan.frontends.retain(|frontend, wanted| {
            let others = other_ports_key(frontend.addr);
            // The ports of an address that are in ranges are one service's: without the first key of the address, it has none of them.
            if wanted.flags & ServiceValue::SAME_PORT != 0 && self.owner.get(&others) != Some(key) {
                return false;
            }
            let owner = self.owner.entry(*frontend).or_insert_with(|| key.clone());
            if owner == key {
                return true;
            }
            let problem = Problem::FrontendTaken { service: key.clone(), owner: owner.clone() };
            self.problems.insert(key.clone(), problem);
            self.waiting.entry(*frontend).or_default().insert(key.clone());
            false
        });
        if facts.forwarding == Forwarding::Unknown {
            self.problems.insert(key.clone(), Problem::Forwarding { service: key.clone() });
        } else if facts.forwarding == Forwarding::Direct && facts.affinity != 0 {
            self.problems.insert(key.clone(), Problem::DirectAffinity { service: key.clone() });
        } else if let Err(error) = &facts.port_ranges {
            let problem = Problem::PortRanges { service: key.clone(), error: error.clone() };
            self.problems.insert(key.clone(), problem);
        }
        let identities = self.identities(key, facts);
        let frontends = plan.frontends.keys().copied().collect();
        self.write(key, &plan, &identities, kernel, writes);
        self.owned.insert(key.clone(), Owned { frontends, identities });
    }

    fn write(
        &mut self,
        key: &Arc<str>,
        plan: &ServicePlan,
        identities: &[u32],
        kernel: &Kernel,
        writes: &mut ServiceWrites,
    ) {
        let mut numbers = SetNumbers::kept(plan, kernel);
        let new = plan.sets.iter().zip(&numbers.sets).filter(|(_, number)| number.is_none());
        let kept =
            numbers.sets.iter().zip(&plan.sets).filter_map(|(number, backends)| Some(((*number)?, backends)));
        kept.for_each(|(set, backends)| self.sets.insert(backends, set));
        let pages: usize = new.map(|(backends, _)| backends.len().div_ceil(BACKEND_SLOTS as usize)).sum();
        let new = plan.ranges.iter().zip(&numbers.ranges).filter(|(_, number)| number.is_none());
        let prefixes: usize = new.map(|(ranges, _)| ranges.len()).sum();
        let is_fresh = |f: &&ServiceKey| !is_other_ports(f) && !kernel.maps.services.contains_key(*f);
        let fresh = plan.frontends.keys().filter(is_fresh).count();
        // An upper bound: counts writes of this plan for another map, and frontends that only move. This matters only
        // just below the limit.
        let full = |now: usize, written: usize, more: usize, limit: u32| {
            more > 0 && now + written + more > limit as usize
        };
        if full(kernel.maps.backends.len(), writes.backends.len(), pages, BACKEND_PAGES_MAX)
            || full(kernel.maps.ranges.len(), writes.backends.len(), prefixes, RANGES_MAX)
            || full(kernel.maps.services.len(), writes.frontends.len(), fresh, SERVICES_MAX)
        {
            self.problems.insert(key.clone(), Problem::ServicesFull { service: key.clone() });
            return;
        }
        for (number, backends) in numbers.sets.iter_mut().zip(&plan.sets) {
            number.get_or_insert_with(|| self.find_or_write_set(backends, kernel, writes));
        }
        self.tables(key, plan, &numbers, kernel, writes);
        for (number, ranges) in numbers.ranges.iter_mut().zip(&plan.ranges) {
            number.get_or_insert_with(|| self.write_list(ranges, kernel, writes));
        }
        for (frontend, wanted) in &plan.frontends {
            if is_other_ports(frontend) {
                if kernel.maps.other_ports.get(&frontend.addr) != Some(&wanted.flags) {
                    writes.other_ports.push(Write::PutOtherPorts(frontend.addr, wanted.flags));
                }
                continue;
            }
            let service = identities.get(wanted.port).copied().unwrap_or_default();
            let value = numbers.value(plan, wanted, service);
            if kernel.maps.services.get(frontend) != Some(&value) {
                writes.frontends.push(Write::PutService(*frontend, value));
            }
        }
    }

    /// Writes the Maglev tables of the sets that external frontends use.
    fn tables(
        &mut self,
        key: &Arc<str>,
        plan: &ServicePlan,
        numbers: &SetNumbers,
        kernel: &Kernel,
        writes: &mut ServiceWrites,
    ) {
        let external = plan.frontends.iter().filter(|(key, _)| key.scope.is_external());
        let indices: BTreeSet<usize> = external.filter_map(|(_, frontend)| frontend.set).collect();
        for index in indices {
            if let (Some(Some(set)), Some(backends)) = (numbers.sets.get(index), plan.sets.get(index))
                && writes.tables.insert(*set)
                && !plan_table(*set, backends, kernel, &mut writes.maglev)
            {
                self.problems.insert(key.clone(), Problem::MaglevFull { service: key.clone() });
            }
        }
    }

    /// The number of a set with these backends: an existing one, or a fresh one that is written.
    fn find_or_write_set(
        &mut self,
        backends: &[Backend],
        kernel: &Kernel,
        writes: &mut ServiceWrites,
    ) -> u32 {
        if let Some(set) = writes.sets.get(backends) {
            return *set;
        }
        let set = self.sets.find(backends, kernel);
        let set = set.unwrap_or_else(|| self.write_set(backends, kernel, writes));
        self.sets.insert(backends, set);
        writes.sets.insert(backends.into(), set);
        set
    }

    fn write_set(&mut self, backends: &[Backend], kernel: &Kernel, writes: &mut ServiceWrites) -> u32 {
        if self.next_set == 0 {
            let last = kernel.maps.backends.last_key_value();
            self.next_set = last.map_or(0, |(key, _)| key.set);
        }
        let set = next_free(&mut self.next_set, |set| kernel.maps.pages_of(set).next().is_none());
        writes.backends.extend(Write::backend_set(set, backends));
        set
    }

    fn write_list(&mut self, ranges: &[Prefix], kernel: &Kernel, writes: &mut ServiceWrites) -> u32 {
        if self.next_list == 0 {
            self.next_list = kernel.maps.ranges.last().map_or(0, |(list, _)| *list);
        }
        let list = next_free(&mut self.next_list, |list| kernel.list(list).next().is_none());
        let put =
            |(prefix_bits, addr): &Prefix| Write::PutRange { list, prefix_bits: *prefix_bits, addr: *addr };
        writes.backends.extend(ranges.iter().map(put));
        list
    }

    /// One for each port and shared port, made from its name, so that affinity and flow log recognise it after a restart.
    fn identities(&mut self, key: &Arc<str>, facts: &ServiceFacts) -> Box<[u32]> {
        let before = self.owned.get(key).map(|owned| owned.identities.clone()).unwrap_or_default();
        for identity in &before {
            self.identities.remove(identity);
        }
        let mut identity = |port: &PortFacts| {
            let hash = identity_hash(key, port);
            let mut identity = (hash as u32).max(1);
            while self.identities.get(&identity).is_some_and(|other| other.hash != hash) {
                identity = identity.wrapping_add(1).max(1);
            }
            let known = PortIdentity { hash, service: key.clone(), port: port.port };
            self.identities.insert(identity, known);
            identity
        };
        let shared = facts.shared_ports();
        facts.ports.iter().cloned().chain(shared).map(|port| identity(&port)).collect()
    }
}

/// A service port's identity before clashes are resolved. The kernel keeps it in `SERVICES` and `AFFINITY`.
fn identity_hash(service: &str, port: &PortFacts) -> u64 {
    StableHasher::new().text(service).text(&port.name).u8(port.proto.0).finish()
}

/// Numbers of a plan's sets and lists; `None`: not in the kernel yet.
struct SetNumbers {
    sets: Vec<Option<u32>>,
    ranges: Vec<Option<u32>>,
}

impl SetNumbers {
    /// The numbers that the plan's frontends have in the kernel, where the content is still the wanted one.
    fn kept(plan: &ServicePlan, kernel: &Kernel) -> Self {
        let mut numbers =
            SetNumbers { sets: vec![None; plan.sets.len()], ranges: vec![None; plan.ranges.len()] };
        for (frontend, wanted) in &plan.frontends {
            let Some(value) = kernel.maps.services.get(frontend) else { continue };
            let set = wanted.set.and_then(|set| Some((numbers.sets.get_mut(set)?, plan.sets.get(set)?)));
            if let Some((number @ None, backends)) = set
                && value.count > 0
                && kernel.holds(value.set, backends)
            {
                *number = Some(value.set);
            }
            let list = wanted.ranges.and_then(|r| Some((numbers.ranges.get_mut(r)?, plan.ranges.get(r)?)));
            if let Some((number @ None, ranges)) = list
                && value.ranges != 0
                && kernel.list(value.ranges).eq(ranges.iter().copied())
            {
                *number = Some(value.ranges);
            }
        }
        numbers
    }

    fn value(&self, plan: &ServicePlan, wanted: &Frontend, service: u32) -> ServiceValue {
        let set = wanted.set.and_then(|set| Some((*self.sets.get(set)?, plan.sets.get(set)?.len())));
        let (set, count) = match set {
            Some((Some(number), count)) => (number, count as u32),
            _ => (0, 0),
        };
        let ranges = wanted.ranges.and_then(|ranges| *self.ranges.get(ranges)?).unwrap_or_default();
        ServiceValue { set, count, service, affinity_seconds: wanted.affinity, flags: wanted.flags, ranges }
    }
}

/// The next number after `last` without entries. A number is used once; after 2^32 numbers, those still in use are
/// skipped.
fn next_free(last: &mut u32, is_free: impl Fn(u32) -> bool) -> u32 {
    loop {
        *last = last.wrapping_add(1).max(1);
        if is_free(*last) {
            return *last;
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_abi::Proto;

    use super::*;

    #[test]
    fn identities_are_the_same_in_every_version() {
        let identity = |name: &str, proto| {
            identity_hash("ns/web", &PortFacts { name: name.into(), proto, port: 80, node_port: 0 })
        };
        let identities =
            [identity("http", Proto::TCP), identity("http", Proto::UDP), identity("", Proto::TCP)];
        let expected = [0x76b6_4c06_03bb_e71c, 0xf938_4d77_fe3c_baed, 0x6b61_44fc_fde5_a08b];
        assert_eq!(identities, expected);
    }
}

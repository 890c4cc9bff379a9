//! Policies to writes: a new generation in the other table, or single addresses in the table in force.
//!
//! In: the index, the attachments, the kernel. Out: writes; after each of them every lookup has the answer of the old or of
//! the new generation. Nothing is compiled for a policy that selects no local pod, nor for a pod whose rules are known. A pod
//! whose verdicts do not fit keeps its last ones; if the classes do not fit, the previous generation stays in force. New
//! pods that a policy selects are then denied all traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_abi::{
    Addr, Be16, Direction, Proto, Verdict, VerdictKey, isolated_bit, open_bit, table_of, verdicts_index,
};
use skep_policy::{
    Compiled, Endpoint, Entries, Local, Overflow, Peers, Prefix, RuleSet, VerdictEntry, VerdictMapId,
    compile, rule_set,
};

use super::kernel::Kernel;
use crate::attach::{Attachment, Attachments};
use crate::index::{Changes, Index};
use crate::write::Write;

/// The compiled policies.
#[derive(Debug, Default)]
pub(crate) struct PolicyState {
    compiled: Compiled,
    /// The pods of the index.
    peers: Peers,
    /// The pods that are part of `compiled`, by slot.
    pods: BTreeMap<u32, Policed>,
    overflows: Vec<Overflow>,
    /// The classes did not fit: `compiled` is of an earlier state.
    is_stale: bool,
}

/// A pod and what it was compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policed {
    sandbox: Arc<str>,
    rules: RuleSet,
    endpoint: Endpoint,
}

/// Writes to be followed by one that puts the generation in force.
#[derive(Debug, Default)]
pub(crate) struct GenerationWrites {
    pub(crate) writes: Vec<Write>,
    /// The generation in force after them; `None`: that of before.
    pub(crate) generation: Option<u32>,
}

/// What changed for pods of this node, where nothing had to be compiled.
#[derive(Default)]
struct Admitted {
    addrs: BTreeSet<Addr>,
    /// A pod that has traffic already has other verdicts now.
    is_live: bool,
}

impl PolicyState {
    pub(crate) fn overflows(&self) -> impl Iterator<Item = &Overflow> {
        self.overflows.iter()
    }

    pub(crate) fn entries(&self) -> &Entries {
        &self.compiled.entries
    }

    /// The bits of [`skep_abi::Pod::isolated`] for the pod of the slot under the generation.
    pub(crate) fn isolation(&self, slot: u32, generation: u32) -> u32 {
        let Entries { slots, maps, .. } = self.entries();
        let isolated = slots.get(&slot);
        let is_open = |direction: Direction| match isolated {
            None => true,
            Some(id) => maps.get(id).is_some_and(|entries| allows_all(entries, direction)),
        };
        let open = |direction| if is_open(direction) { open_bit(generation, direction) } else { 0 };
        let own = if isolated.is_some() { isolated_bit(generation) } else { 0 };
        own | open(Direction::INGRESS) | open(Direction::EGRESS)
    }

    /// Follows the pods at these addresses; to be called before [`PolicyState::plan`], and even if that is not called.
    pub(crate) fn note_peers(&mut self, changed: &BTreeSet<Addr>, index: &Index) {
        for addr in changed {
            self.peers.set(*addr, index.pod_at(*addr).map(|pod| &pod.endpoint));
        }
    }

    pub(crate) fn plan(
        &mut self,
        changes: &Changes,
        index: &Index,
        attachments: &Attachments,
        kernel: &Kernel,
    ) -> GenerationWrites {
        let is_local = |namespace: &Arc<str>| {
            attachments.iter().any(|(_, attachment)| attachment.endpoint.namespace == *namespace)
        };
        let must_compile = changes.policy
            || self.is_stale
            || changes.policies.iter().any(is_local)
            || (changes.namespaces && self.compiled.classifier.reads_namespaces());
        // A pod of that namespace that comes later is compiled then.
        let of_changed =
            |(keys, _): &RuleSet| keys.iter().any(|key| changes.policies.contains(&key.namespace));
        self.compiled.known.retain(|rules, _| !of_changed(rules));
        let admitted = match must_compile {
            true => None,
            false if changes.locals => self.admit(index, attachments, kernel),
            false => Some(Admitted::default()),
        };
        if let Some(Admitted { mut addrs, is_live }) = admitted {
            addrs.extend(&changes.peers);
            if self.reclassify(&addrs, index, attachments, false) {
                return match is_live {
                    true => self.write_generation(attachments, kernel),
                    false => self.write_addresses(&addrs, attachments, kernel),
                };
            }
        }
        self.compile(&changes.peers, index, attachments, kernel);
        self.resolve_id_clashes(kernel);
        self.write_generation(attachments, kernel)
    }

    fn write_generation(&self, attachments: &Attachments, kernel: &Kernel) -> GenerationWrites {
        match self.fits_in_force(attachments, kernel) {
            true => self.in_place(attachments, kernel),
            false => self.flip(attachments, kernel),
        }
    }

    /// Gives pods that came or changed the verdicts of their rules, if these are known; `None`: compile.
    fn admit(&mut self, index: &Index, attachments: &Attachments, kernel: &Kernel) -> Option<Admitted> {
        let mut admitted = Admitted::default();
        let mut pods = BTreeMap::new();
        for (sandbox, attachment) in attachments.iter() {
            let (slot, endpoint) = (attachment.pod.slot, attachment.endpoint.clone());
            let pod =
                Policed { sandbox: sandbox.clone(), rules: rule_set(&index.policies, &endpoint), endpoint };
            let before = self.pods.get(&slot);
            if before != Some(&pod) {
                let of_both = before.into_iter().chain([&pod]).flat_map(|pod| pod.endpoint.addrs.iter());
                admitted.addrs.extend(of_both.copied());
                let map = self.compiled.known.get(&pod.rules).copied();
                let slots = &mut self.compiled.entries.slots;
                let was = slots.get(&slot).copied();
                match map? {
                    Some(map) => drop(slots.insert(slot, map)),
                    None => drop(slots.remove(&slot)),
                }
                admitted.is_live |= slots.get(&slot).copied() != was && attachment.is_live(&kernel.maps);
            }
            pods.insert(slot, pod);
        }
        for (slot, gone) in self.pods.iter().filter(|(slot, _)| !pods.contains_key(*slot)) {
            admitted.addrs.extend(gone.endpoint.addrs.iter().copied());
            self.compiled.entries.slots.remove(slot);
        }
        self.pods = pods;
        // Without a pod under policies there are no classes to keep.
        let is_unused = self.compiled.entries.slots.is_empty() && !self.compiled.classifier.is_trivial();
        (!is_unused).then_some(admitted)
    }

    /// Sets the classes of these addresses; `false` if one needs a new class. With `force` such an address counts as
    /// one without a pod.
    fn reclassify(
        &mut self,
        addrs: &BTreeSet<Addr>,
        index: &Index,
        attachments: &Attachments,
        force: bool,
    ) -> bool {
        let Compiled { entries, classifier, .. } = &mut self.compiled;
        if classifier.is_trivial() {
            return true;
        }
        for addr in addrs {
            let endpoint = attachments.at(*addr).or_else(|| index.pod_at(*addr).map(|pod| &pod.endpoint));
            let entry = match endpoint {
                None => classifier.vacant(*addr),
                Some(endpoint) => match classifier.classify(endpoint, *addr, &index.namespaces) {
                    Ok(entry) => entry,
                    Err(_) if force => classifier.vacant(*addr),
                    Err(_) => return false,
                },
            };
            match entry {
                Some(class) => entries.classes.insert((128, *addr), class),
                None => entries.classes.remove(&(128, *addr)),
            };
        }
        true
    }

    fn compile(&mut self, peers: &BTreeSet<Addr>, index: &Index, attachments: &Attachments, kernel: &Kernel) {
        let local: Vec<Local<'_>> =
            attachments.iter().map(|(_, a)| Local { slot: a.pod.slot, endpoint: &a.endpoint }).collect();
        match compile(&index.policies, &index.namespaces, &self.peers, &local) {
            Ok(compiled) => {
                self.compiled = compiled;
                self.is_stale = false;
                self.overflows = self.compiled.overflows.values().cloned().collect();
                self.overflows.dedup();
                self.keep_last_verdicts(attachments, kernel);
                self.pods = attachments
                    .iter()
                    .filter(|(_, a)| !self.compiled.overflows.contains_key(&a.pod.slot))
                    .map(|(sandbox, a)| {
                        let rules = rule_set(&index.policies, &a.endpoint);
                        let pod = Policed { sandbox: sandbox.clone(), rules, endpoint: a.endpoint.clone() };
                        (a.pod.slot, pod)
                    })
                    .collect();
            }
            Err(overflow) => {
                self.overflows = vec![overflow];
                self.is_stale = true;
                self.reclassify(peers, index, attachments, true);
                self.deny_unknown(index, attachments);
            }
        }
    }

    /// A pod whose verdicts do not fit keeps those in the kernel; a new one is denied all traffic.
    fn keep_last_verdicts(&mut self, attachments: &Attachments, kernel: &Kernel) {
        let Compiled { entries, overflows, .. } = &mut self.compiled;
        for (_, Attachment { pod, .. }) in attachments.iter().filter(|(_, a)| !a.is_live(&kernel.maps)) {
            if overflows.contains_key(&pod.slot) {
                entries.maps.insert(DENY_ALL, deny_all());
                entries.slots.insert(pod.slot, DENY_ALL);
            }
        }
        for (_, Attachment { pod, .. }) in attachments.iter().filter(|(_, a)| a.is_live(&kernel.maps)) {
            let index = verdicts_index(pod.slot, kernel.maps.generation);
            if overflows.contains_key(&pod.slot)
                && let Some(map) = kernel.maps.verdicts.get(&index)
                && let Some(verdicts) = kernel.maps.verdict_maps.get(map)
            {
                entries.maps.insert(*map, verdicts.clone());
                entries.slots.insert(pod.slot, *map);
            }
        }
    }

    /// Denies all traffic of pods that are not part of `compiled`, if a policy selects them.
    fn deny_unknown(&mut self, index: &Index, attachments: &Attachments) {
        for (id, attachment) in attachments.iter() {
            let slot = attachment.pod.slot;
            if self.pods.get(&slot).is_some_and(|pod| pod.sandbox == *id) {
                continue;
            }
            let entries = &mut self.compiled.entries;
            if rule_set(&index.policies, &attachment.endpoint).0.is_empty() {
                entries.slots.remove(&slot);
            } else {
                entries.maps.insert(DENY_ALL, deny_all());
                entries.slots.insert(slot, DENY_ALL);
            }
        }
    }

    /// Gives maps another id if the kernel uses theirs for another content.
    fn resolve_id_clashes(&mut self, kernel: &Kernel) {
        let Compiled { entries: Entries { maps, slots, .. }, known, .. } = &mut self.compiled;
        let taken = |id: &VerdictMapId, entries: &Arc<[VerdictEntry]>| {
            kernel.maps.verdict_maps.get(id).is_some_and(|other| other != entries)
        };
        let clashing: Vec<VerdictMapId> =
            maps.iter().filter(|(id, entries)| taken(id, entries)).map(|(id, _)| *id).collect();
        for old in clashing {
            let Some(entries) = maps.remove(&old) else { continue };
            let mut new = old;
            while taken(&new, &entries) || maps.get(&new).is_some_and(|other| *other != entries) {
                new = VerdictMapId(new.0.wrapping_add(1));
            }
            maps.insert(new, entries);
            let names = slots.values_mut().chain(known.values_mut().flatten());
            names.filter(|id| **id == old).for_each(|id| *id = new);
        }
    }

    /// Whether only full-length addresses and pods without traffic yet differ from the table in force.
    fn fits_in_force(&self, attachments: &Attachments, kernel: &Kernel) -> bool {
        let generation = kernel.maps.generation;
        let Some(classes) = kernel.maps.classes.get(table_of(generation) as usize) else { return false };
        let networks = |classes: &BTreeMap<Prefix, u32>| -> Vec<(Prefix, u32)> {
            classes.range(..(128, Addr::UNSPECIFIED)).map(|(prefix, class)| (*prefix, *class)).collect()
        };
        let live = attachments.iter().filter(|(_, a)| a.is_live(&kernel.maps));
        networks(classes) == networks(&self.entries().classes)
            && live.map(|(_, a)| a.pod.slot).all(|slot| {
                let now = kernel.maps.verdicts.get(&verdicts_index(slot, generation));
                now == self.entries().slots.get(&slot)
            })
    }

    /// Writes into the table in force.
    fn in_place(&self, attachments: &Attachments, kernel: &Kernel) -> GenerationWrites {
        let classes = self.classes(kernel, kernel.maps.generation);
        self.with_classes(classes, attachments, kernel)
    }

    /// Writes the classes of these addresses, and the verdicts of pods without traffic yet, into the table in force.
    fn write_addresses(
        &self,
        addrs: &BTreeSet<Addr>,
        attachments: &Attachments,
        kernel: &Kernel,
    ) -> GenerationWrites {
        let table = table_of(kernel.maps.generation);
        let Some(classes) = kernel.maps.classes.get(table as usize) else {
            return GenerationWrites::default();
        };
        let changed = addrs.iter().filter_map(|addr| {
            let prefix = (128, *addr);
            match (classes.get(&prefix), self.entries().classes.get(&prefix)) {
                (now, wanted) if now == wanted => None,
                (_, Some(class)) => Some(put_class(table, prefix, *class)),
                (_, None) => Some(delete_class(table, prefix)),
            }
        });
        self.with_classes(changed.collect(), attachments, kernel)
    }

    fn with_classes(
        &self,
        classes: Vec<Write>,
        attachments: &Attachments,
        kernel: &Kernel,
    ) -> GenerationWrites {
        let generation = kernel.maps.generation;
        let mut writes = self.create_maps(attachments, kernel);
        writes.extend(self.verdicts(attachments, kernel, generation));
        let arrives = attachments.iter().any(|(_, a)| !a.is_live(&kernel.maps));
        let raise = !classes.is_empty() || arrives;
        writes.extend(classes);
        GenerationWrites { writes, generation: raise.then(|| generation.wrapping_add(2)) }
    }

    fn flip(&self, attachments: &Attachments, kernel: &Kernel) -> GenerationWrites {
        let next = kernel.maps.generation.wrapping_add(1);
        let mut writes = self.create_maps(attachments, kernel);
        writes.extend(self.verdicts(attachments, kernel, next));
        writes.extend(self.classes(kernel, next));
        GenerationWrites { writes, generation: Some(next) }
    }

    fn create_maps(&self, attachments: &Attachments, kernel: &Kernel) -> Vec<Write> {
        let entries = self.entries();
        let used: BTreeSet<VerdictMapId> =
            attachments.iter().filter_map(|(_, a)| entries.slots.get(&a.pod.slot)).copied().collect();
        let new = used.into_iter().filter(|id| !kernel.maps.verdict_maps.contains_key(id));
        new.filter_map(|id| Some(Write::CreateVerdictMap { id, entries: entries.maps.get(&id)?.clone() }))
            .collect()
    }

    /// The verdict maps of all attached pods, in the table of `generation`. Puts are adjacent and so are deletes: the
    /// datapath makes one system call for each run.
    fn verdicts(&self, attachments: &Attachments, kernel: &Kernel, generation: u32) -> Vec<Write> {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for slot in attachments.iter().map(|(_, a)| a.pod.slot) {
            let index = verdicts_index(slot, generation);
            match (kernel.maps.verdicts.get(&index), self.entries().slots.get(&slot)) {
                (now, wanted) if now == wanted => {}
                (_, Some(map)) => puts.push(Write::PutVerdicts { index, map: *map }),
                (_, None) => deletes.push(Write::DeleteVerdicts { index }),
            }
        }
        puts.extend(deletes);
        puts
    }

    /// The classes, in the table of `generation`.
    fn classes(&self, kernel: &Kernel, generation: u32) -> Vec<Write> {
        let table = table_of(generation);
        let Some(now) = kernel.maps.classes.get(table as usize) else { return Vec::new() };
        let (mut now, mut puts, mut deletes) = (now.iter().peekable(), Vec::new(), Vec::new());
        for (prefix, class) in &self.entries().classes {
            while let Some((extra, _)) = now.next_if(|(known, _)| *known < prefix) {
                deletes.push(delete_class(table, *extra));
            }
            if now.next_if(|(known, _)| *known == prefix).map(|(_, known)| known) != Some(class) {
                puts.push(put_class(table, *prefix, *class));
            }
        }
        deletes.extend(now.map(|(extra, _)| delete_class(table, *extra)));
        puts.extend(deletes);
        puts
    }

    /// Deletes what neither the table in force nor an attached pod needs.
    pub(crate) fn garbage(&self, attachments: &Attachments, kernel: &Kernel) -> Vec<Write> {
        let generation = kernel.maps.generation;
        let other = table_of(generation.wrapping_add(1));
        let mut writes = Vec::new();
        // While there are classes the other table stays: the next generation then writes only what differs from the one before last.
        let count = |table: u32| kernel.maps.classes.get(table as usize).map_or(0, BTreeMap::len);
        if count(other) > 0 && count(table_of(generation)) == 0 {
            writes.push(Write::ClearClasses { table: other as u8 });
        }
        let needed: BTreeSet<u32> =
            attachments.iter().map(|(_, a)| verdicts_index(a.pod.slot, generation)).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            kernel.maps.verdicts.iter().partition(|(index, _)| needed.contains(index));
        writes.extend(dropped.into_iter().map(|(index, _)| Write::DeleteVerdicts { index: *index }));
        let used: BTreeSet<&VerdictMapId> = kept.into_iter().map(|(_, map)| map).collect();
        let unused = kernel.maps.verdict_maps.keys().filter(|id| !used.contains(id));
        writes.extend(unused.map(|id| Write::DropVerdictMap { id: *id }));
        writes
    }
}

fn put_class(table: u32, (prefix_bits, addr): Prefix, class: u32) -> Write {
    Write::PutClass { table: table as u8, prefix_bits, addr, class }
}

fn delete_class(table: u32, (prefix_bits, addr): Prefix) -> Write {
    Write::DeleteClass { table: table as u8, prefix_bits, addr }
}

/// The name of [`deny_all`].
const DENY_ALL: VerdictMapId = VerdictMapId(0);

/// Denies both directions.
fn deny_all() -> Arc<[VerdictEntry]> {
    let deny = Verdict { allow: 0, rule: 0 };
    let key = |direction| VerdictKey::new(direction, 0, Proto(0), Be16::default());
    [Direction::INGRESS, Direction::EGRESS].map(|d| (VerdictKey::DIRECTION_BITS, key(d), deny)).into()
}

/// Whether no rule decides in the direction: its default allows, and no rule's number is to be reported.
fn allows_all(entries: &[VerdictEntry], direction: Direction) -> bool {
    entries.iter().any(|(bits, key, verdict)| {
        *bits == VerdictKey::DIRECTION_BITS
            && key.direction == direction
            && *verdict == Verdict { allow: 1, rule: 0 }
    })
}

//! Policies to writes: a new generation in the other table, or single addresses in the table in force.
//!
//! In: the index, the attachments, the kernel. Out: writes; after each of them every lookup has the answer of the old or of
//! the new generation. If the maps would overflow, the previous generation stays in force, and new pods that a policy
//! selects are denied all traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_abi::{Addr, Be16, Direction, Proto, Verdict, VerdictKey, table_of, verdicts_index};
use skep_policy::{
    Compiled, Endpoint, Entries, Local, Overflow, Prefix, VerdictEntry, VerdictMapId, compile,
};

use super::kernel::Kernel;
use crate::attach::Attachments;
use crate::index::{Changes, Index};
use crate::write::Write;

/// The compiled policies.
#[derive(Debug, Default)]
pub(crate) struct PolicyState {
    compiled: Compiled,
    /// Sandboxes that are part of `compiled`, by slot.
    known: BTreeMap<u32, Arc<str>>,
    overflow: Option<Overflow>,
}

impl PolicyState {
    pub(crate) fn overflow(&self) -> Option<&Overflow> {
        self.overflow.as_ref()
    }

    pub(crate) fn entries(&self) -> &Entries {
        &self.compiled.entries
    }

    pub(crate) fn plan(
        &mut self,
        changes: &Changes,
        index: &Index,
        attachments: &Attachments,
        kernel: &Kernel,
    ) -> Vec<Write> {
        if !changes.policy && self.reclassify(&changes.peers, index, attachments, false) {
            return self.write_addresses(&changes.peers, kernel);
        }
        self.compile(&changes.peers, index, attachments);
        self.resolve_id_clashes(kernel);
        match self.fits_in_force(attachments, kernel) {
            true => self.in_place(attachments, kernel),
            false => self.flip(attachments, kernel),
        }
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
        let Compiled { entries, classifier } = &mut self.compiled;
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

    fn compile(&mut self, peers: &BTreeSet<Addr>, index: &Index, attachments: &Attachments) {
        let local: Vec<Local<'_>> =
            attachments.iter().map(|(_, a)| Local { slot: a.pod.slot, endpoint: &a.endpoint }).collect();
        // The last endpoint of an address counts: pods being deleted come first, then others, then attachments.
        let pods = index.pods.values();
        let leaving = pods.clone().filter(|pod| pod.deleting);
        let staying = pods.filter(|pod| !pod.deleting);
        let endpoints = leaving.chain(staying).map(|pod| &pod.endpoint);
        let endpoints = endpoints.chain(attachments.iter().map(|(_, a)| &a.endpoint));
        match compile(&index.policies, &index.namespaces, endpoints, &local) {
            Ok(compiled) => {
                self.compiled = compiled;
                self.overflow = None;
                self.known = attachments.iter().map(|(id, a)| (a.pod.slot, id.clone())).collect();
            }
            Err(overflow) => {
                self.overflow = Some(overflow);
                self.reclassify(peers, index, attachments, true);
                self.deny_unknown(index, attachments);
            }
        }
    }

    /// Denies all traffic of pods that are not part of `compiled`, if a policy selects them.
    fn deny_unknown(&mut self, index: &Index, attachments: &Attachments) {
        let deny_all = deny_all();
        let deny_all_id = VerdictMapId(0);
        for (id, attachment) in attachments.iter() {
            let slot = attachment.pod.slot;
            if self.known.get(&slot) == Some(id) {
                continue;
            }
            let entries = &mut self.compiled.entries;
            if selected(&attachment.endpoint, index) {
                entries.maps.insert(deny_all_id, deny_all.clone());
                entries.slots.insert(slot, deny_all_id);
            } else {
                entries.slots.remove(&slot);
            }
        }
    }

    /// Gives maps another id if the kernel uses theirs for another content.
    fn resolve_id_clashes(&mut self, kernel: &Kernel) {
        let Entries { maps, slots, .. } = &mut self.compiled.entries;
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
            slots.values_mut().filter(|id| **id == old).for_each(|id| *id = new);
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
    fn in_place(&self, attachments: &Attachments, kernel: &Kernel) -> Vec<Write> {
        let generation = kernel.maps.generation;
        let mut writes = self.create_maps(attachments, kernel);
        writes.extend(self.verdicts(attachments, kernel, generation));
        let classes = self.classes(kernel, generation);
        let arrives = attachments.iter().any(|(_, a)| !a.is_live(&kernel.maps));
        let raise = !classes.is_empty() || arrives;
        writes.extend(classes);
        if raise {
            writes.push(Write::SetGeneration(generation.wrapping_add(2)));
        }
        writes
    }

    fn flip(&self, attachments: &Attachments, kernel: &Kernel) -> Vec<Write> {
        let next = kernel.maps.generation.wrapping_add(1);
        let mut writes = self.create_maps(attachments, kernel);
        writes.extend(self.verdicts(attachments, kernel, next));
        writes.extend(self.classes(kernel, next));
        writes.push(Write::SetGeneration(next));
        writes
    }

    /// Writes the classes of these addresses into the table in force.
    fn write_addresses(&self, addrs: &BTreeSet<Addr>, kernel: &Kernel) -> Vec<Write> {
        let generation = kernel.maps.generation;
        let table = table_of(generation);
        let Some(classes) = kernel.maps.classes.get(table as usize) else { return Vec::new() };
        let changed = addrs.iter().filter_map(|addr| {
            let prefix = (128, *addr);
            match (classes.get(&prefix), self.entries().classes.get(&prefix)) {
                (now, wanted) if now == wanted => None,
                (_, Some(class)) => Some(put_class(table, prefix, *class)),
                (_, None) => Some(delete_class(table, prefix)),
            }
        });
        let mut writes: Vec<Write> = changed.collect();
        if !writes.is_empty() {
            writes.push(Write::SetGeneration(generation.wrapping_add(2)));
        }
        writes
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
        let wanted = &self.entries().classes;
        let puts = wanted.iter().filter(|(prefix, class)| now.get(*prefix) != Some(*class));
        let mut writes: Vec<Write> = puts.map(|(prefix, class)| put_class(table, *prefix, *class)).collect();
        let extra = now.keys().filter(|prefix| !wanted.contains_key(*prefix));
        writes.extend(extra.map(|prefix| delete_class(table, *prefix)));
        writes
    }

    /// Deletes what neither the table in force nor an attached pod needs.
    pub(crate) fn garbage(&self, attachments: &Attachments, kernel: &Kernel) -> Vec<Write> {
        let generation = kernel.maps.generation;
        let other = table_of(generation.wrapping_add(1));
        let mut writes = Vec::new();
        if kernel.maps.classes.get(other as usize).is_some_and(|classes| !classes.is_empty()) {
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

/// Whether any policy selects the endpoint.
fn selected(endpoint: &Endpoint, index: &Index) -> bool {
    let mut policies = index.policies.iter();
    policies.any(|(key, p)| key.namespace == endpoint.namespace && p.pods.matches(&endpoint.labels))
}

/// Denies both directions.
fn deny_all() -> Arc<[VerdictEntry]> {
    let deny = Verdict { allow: 0, policy: 0 };
    let key = |direction| VerdictKey::new(direction, 0, Proto(0), Be16::default());
    [Direction::INGRESS, Direction::EGRESS].map(|d| (VerdictKey::DIRECTION_BITS, key(d), deny)).into()
}

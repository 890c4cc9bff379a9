//! The one stateful value: index, attachments and what the kernel holds, to the next writes.
//!
//! In: API objects through [`Planner::index`], attachments of pods. Out: [`Plan`]s. The caller performs a plan's
//! writes in order and reports by [`Planner::commit`] how many succeeded; what did not is planned again, from where
//! the kernel then stands. Until [`Planner::synced`] nothing is planned, so after a restart the maps stay as they are
//! until the whole cluster is known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use skep_abi::{Addr, BackendKey, Pod, Proto, SLOTS_MAX};
use skep_policy::PolicyKey;

use crate::attach::{Attachments, Owner};
use crate::diff::Problem;
use crate::diff::kernel::Kernel;
use crate::diff::policy::PolicyState;
use crate::diff::service::Services;
use crate::index::{Changes, Index};
use crate::routes::{self, Routes};
use crate::service::Place;
use crate::write::{Observed, Write};

#[derive(Debug)]
pub struct Planner {
    /// Objects go in here.
    pub index: Index,
    node_addrs: Vec<IpAddr>,
    overlay: bool,
    attachments: Attachments,
    kernel: Kernel,
    services: Services,
    policy: PolicyState,
    routes: Routes,
    synced: bool,
    /// Frontends of the kernel may have no owner: after a restart or a failed write.
    sweep: bool,
    ripe: Ripe,
}

/// What was garbage when garbage was last looked at.
#[derive(Debug, Default)]
struct Ripe {
    sets: BTreeSet<u32>,
    ranges: BTreeSet<u32>,
    tables: BTreeSet<u32>,
    generation: Option<u32>,
}

/// Writes to perform in order, once.
#[derive(Debug, Default)]
pub struct Plan {
    pub writes: Vec<Write>,
    changes: Changes,
}

impl Plan {
    /// Whether backends of datagrams may go: who talks to them has to be led elsewhere.
    pub fn moves_datagrams(&self) -> bool {
        self.writes.iter().any(|write| match write {
            Write::PutService(key, _) | Write::DeleteService(key) => key.proto == Proto::UDP,
            _ => false,
        })
    }
}

impl Planner {
    /// `node_addrs`: addresses of this node beside those of its Node object. `observed`: what is in the maps now.
    pub fn new(node: &str, node_addrs: Vec<IpAddr>, observed: Observed) -> Self {
        Planner {
            index: Index::new(node),
            node_addrs,
            overlay: false,
            attachments: Attachments::default(),
            kernel: Kernel::new(observed),
            services: Services::default(),
            policy: PolicyState::default(),
            routes: Routes::default(),
            synced: false,
            sweep: true,
            ripe: Ripe::default(),
        }
    }

    /// Other nodes' pods are reached by an overlay.
    pub fn over_overlay(self, overlay: bool) -> Self {
        Planner { overlay, ..self }
    }

    /// All kinds have been listed completely and all attachments restored.
    pub fn synced(&mut self) {
        if !self.synced {
            self.synced = true;
            self.index.changes.policy = true;
            self.index.changes.nodes = true;
        }
    }

    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// A slot for [`Planner::attach`] that neither a pod nor the kernel uses; `None` if all are taken.
    pub fn free_slot(&self) -> Option<u32> {
        let attached = self.attachments.iter().map(|(_, attachment)| attachment.pod.slot);
        let pods = self.kernel.maps.pods.values().map(|pod| pod.slot);
        let verdicts = self.kernel.maps.verdicts.keys().map(|index| index / 2);
        let used: BTreeSet<u32> = attached.chain(pods).chain(verdicts).collect();
        (0..SLOTS_MAX).find(|slot| !used.contains(slot))
    }

    /// The sandbox's interface is there. Its policy and its place in `PODS` are in the next plan.
    pub fn attach(&mut self, sandbox: &str, owner: &Owner, addrs: &[IpAddr], pod: Pod) {
        let addrs: Vec<Addr> = addrs.iter().copied().map(Addr::from).collect();
        self.attachments.put(sandbox, owner, &addrs, pod, &self.index);
        self.index.changes.policy = true;
    }

    pub fn detach(&mut self, sandbox: &str) {
        self.index.changes.policy |= self.attachments.remove(sandbox);
    }

    pub fn attached(&self, sandbox: &str) -> Option<Pod> {
        self.attachments.get(sandbox).map(|attachment| attachment.pod)
    }

    /// What is to be done now; empty if nothing.
    pub fn plan(&mut self) -> Plan {
        if !self.synced {
            return Plan::default();
        }
        let mut changes = std::mem::take(&mut self.index.changes);
        if self.sweep {
            changes.services.extend(self.index.services.keys().cloned());
        }
        let mut writes = Vec::new();
        if changes.nodes {
            self.routes = routes::compile(&self.index.nodes, self.index.node_name(), self.overlay);
            writes.extend(routes::diff(&self.routes, &self.kernel.maps));
        }
        if self.sweep || !changes.services.is_empty() {
            writes.extend(self.plan_services(&changes.services));
        }
        if changes.policy || !changes.peers.is_empty() {
            writes.extend(self.plan_pods(&changes));
        }
        Plan { writes, changes }
    }

    fn plan_services(&mut self, changed: &BTreeSet<Arc<str>>) -> Vec<Write> {
        let mut addrs: Vec<IpAddr> = self.node_addrs.iter().copied().chain(self.index.node_addrs()).collect();
        addrs.sort_unstable();
        addrs.dedup();
        let zone = self.index.this_node().map(|node| node.zone.clone()).unwrap_or_default();
        let others = self.index.other_addrs().filter(|addr| !addrs.contains(addr)).collect();
        let place = Place { zone, addrs, others };
        let writes = self.services.plan(changed, &self.index, &place, &self.kernel, self.sweep);
        self.sweep = false;
        let mut all = writes.backends;
        all.extend(writes.maglev);
        all.extend(writes.frontends);
        all.extend(writes.deletes);
        all
    }

    /// A pod that leaves loses its place first; one that comes gets it last, when its verdicts are there.
    fn plan_pods(&mut self, changes: &Changes) -> Vec<Write> {
        if changes.policy {
            self.attachments.refresh(&self.index);
        }
        let now = &self.kernel.maps.pods;
        let wanted = self.attachments.pods();
        // An address that another sandbox took over is a new pod: its verdicts are those of another slot.
        let stays = |addr: &Addr, pod: &Pod| wanted.get(addr).is_some_and(|wanted| wanted.slot == pod.slot);
        let gone = now.iter().filter(|(addr, pod)| !stays(addr, pod));
        let mut writes: Vec<Write> = gone.map(|(addr, _)| Write::DeletePod(*addr)).collect();
        writes.extend(self.policy.plan(changes, &self.index, &self.attachments, &self.kernel));
        let new = wanted.iter().filter(|(addr, pod)| now.get(*addr) != Some(*pod));
        writes.extend(new.map(|(addr, pod)| Write::PutPod(*addr, *pod)));
        writes
    }

    /// The first `done` writes of the plan hold. What is left is planned anew.
    pub fn commit(&mut self, plan: Plan, done: usize) {
        let Plan { writes, changes } = plan;
        let failed = done < writes.len();
        for write in writes.iter().take(done) {
            self.kernel.apply(write);
        }
        if failed {
            let Changes { services, peers, policy, nodes } = changes;
            let now = &mut self.index.changes;
            now.services.extend(services);
            // Peers may have led to a new compilation, whose verdicts are looked at again only if policy changed.
            now.policy |= policy || !peers.is_empty();
            now.peers.extend(peers);
            now.nodes |= nodes;
            self.sweep = true;
        }
    }

    /// Whether [`Planner::collect`] has or will have something to do.
    pub fn has_garbage(&self) -> bool {
        let (sets, ranges) = (self.kernel.sets.idle(), self.kernel.ranges.idle());
        !sets.is_empty()
            || !self.kernel.tables.idle().is_empty()
            || !ranges.is_empty()
            || !self.policy.garbage(&self.attachments, &self.kernel).is_empty()
    }

    /// Deletes what was garbage already at the call before, so that no program run that began before it lost its
    /// last reader can still be at work. To be called in steps of some milliseconds, with no plan outstanding.
    pub fn collect(&mut self) -> Plan {
        let mut writes = Vec::new();
        for set in self.ripe.tables.intersection(self.kernel.tables.idle()) {
            let pages = self.kernel.table(*set).map(|(key, _)| *key);
            writes.extend(pages.map(Write::DeleteMaglev));
        }
        for set in self.ripe.sets.intersection(self.kernel.sets.idle()) {
            let slots = self.kernel.set(*set).map(|(key, _)| *key);
            writes.extend(slots.map(|key: BackendKey| Write::DeleteBackend(key)));
        }
        for list in self.ripe.ranges.intersection(self.kernel.ranges.idle()) {
            let ranges = self.kernel.list(*list);
            writes.extend(ranges.map(|(prefix_bits, addr)| Write::DeleteRange {
                list: *list,
                prefix_bits,
                addr,
            }));
        }
        let generation = Some(self.kernel.maps.generation);
        if self.synced && self.ripe.generation == generation {
            writes.extend(self.policy.garbage(&self.attachments, &self.kernel));
        }
        let (sets, ranges) = (self.kernel.sets.idle().clone(), self.kernel.ranges.idle().clone());
        let tables = self.kernel.tables.idle().clone();
        self.ripe = Ripe { sets, tables, ranges, generation };
        if !writes.is_empty() {
            let starved: Vec<Arc<str>> = self.services.starved().cloned().collect();
            self.index.changes.services.extend(starved);
        }
        Plan { writes, changes: Changes::default() }
    }

    /// All that is wrong now.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.index.problems().cloned().map(Problem::from).collect();
        problems.extend(self.policy.overflow().cloned().map(Problem::from));
        problems.extend(self.services.problems().cloned());
        problems.extend(self.routes.problems.iter().cloned().map(Problem::from));
        problems
    }

    /// The policies behind the numbers of the flow log.
    pub fn policies(&self) -> &BTreeMap<u32, PolicyKey> {
        &self.policy.entries().policies
    }

    /// What the kernel holds, as far as commits tell.
    pub fn kernel(&self) -> &Observed {
        &self.kernel.maps
    }
}

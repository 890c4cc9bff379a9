//! The one stateful value of the crate: index, attachments and the kernel's content, to the next writes.
//!
//! In: API objects through [`Planner::index`], attachments of pods. Out: [`Plan`]s: services, then policies and pods, then
//! routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_abi::{Addr, DropReason, FlowEvent, Pod, SLOTS_MAX, ServiceKey, isolation_bits};

use crate::attach::{Attachments, Owner};
use crate::datagram_services::DatagramServices;
use crate::diff::Problem;
use crate::diff::kernel::Kernel;
use crate::diff::policy::PolicyState;
use crate::diff::service::ServiceState;
use crate::failure::{Cause, Failure, Failures, Unit, is_policy, own_unit};
use crate::flow_names::{FlowNames, Names};
use crate::index::API_SERVER;
use crate::index::{Changes, Index};
use crate::plan::{Plan, PlanScope};
use crate::routes::{self, Routes};
use crate::service::{NodeContext, other_ports_key};
use crate::write::{Observed, Write};

/// Node ports and host ports are open there for the node's own processes.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Plans the writes that bring the kernel's maps to the state that the API objects describe.
///
/// It has four groups of methods:
///
/// 1. Input, at any time and in any order, each call as often as needed: `apply_*`, `delete_*` and `keep_*` of
///    [`Planner::index`], [`Planner::attach`], [`Planner::detach`], [`Planner::set_node_addrs`].
/// 2. [`Planner::synced`], once every kind was listed completely and every attachment of the previous agent was
///    restored. Until then [`Planner::plan`] is empty, so the maps of the previous agent stay in force after a restart.
///    Calling it again has no effect.
/// 3. [`Planner::plan`] or [`Planner::collect`], then [`Planner::commit`]. The caller performs the plan as [`Plan`] says, and
///    commits it before the next `plan` or `collect`: a dropped plan loses its changes.
/// 4. [`Planner::failures`] and [`Planner::retry`]. What failed is a [`Unit`] that waits until the caller has it retried,
///    or until what it is made from changes; everything else goes on. Policies wait for `retry` alone.
/// 5. Queries: [`Planner::problems`], [`Planner::names`], [`Planner::kernel`], [`Planner::has_garbage`].
///
/// While [`Planner::has_garbage`], call [`Planner::collect`] twice, some milliseconds apart: the first call notes what is
/// unused, the second deletes what still is. A program that started before the first call has ended by then.
#[derive(Debug)]
pub struct Planner {
    /// Takes the API objects.
    pub index: Index,
    node_addrs: Vec<IpAddr>,
    /// Networks of the node's addresses that have node ports; empty: all have.
    node_port_networks: Vec<IpNetwork>,
    overlay: bool,
    attachments: Attachments,
    kernel: Kernel,
    services: ServiceState,
    policy: PolicyState,
    routes: Routes,
    /// The routes' writes must be planned again, from the same nodes.
    diff_routes: bool,
    failures: Failures,
    synced: bool,
    /// The kernel may have frontends without an owner: after a restart or a failed write.
    sweep: bool,
    pending_garbage: PendingGarbage,
}

/// What was garbage at the last [`Planner::collect`].
#[derive(Debug, Default)]
struct PendingGarbage {
    sets: BTreeSet<u32>,
    ranges: BTreeSet<u32>,
    tables: BTreeSet<u32>,
    generation: Option<u32>,
}

impl Planner {
    /// `node_addrs`: addresses of this node in addition to those of its Node object. `observed`: the maps' content now.
    pub fn new(node: &str, node_addrs: Vec<IpAddr>, observed: Observed) -> Self {
        Planner {
            index: Index::new(node),
            node_addrs,
            node_port_networks: Vec::new(),
            overlay: false,
            attachments: Attachments::default(),
            kernel: Kernel::new(observed),
            services: ServiceState::default(),
            policy: PolicyState::default(),
            routes: Routes::default(),
            diff_routes: false,
            failures: Failures::default(),
            synced: false,
            sweep: true,
            pending_garbage: PendingGarbage::default(),
        }
    }

    /// Whether an overlay carries packets to other nodes' pods.
    pub fn with_overlay(self, overlay: bool) -> Self {
        Planner { overlay, ..self }
    }

    /// Has node ports listen only on addresses in these networks; on all if there are none.
    pub fn with_node_port_networks(self, node_port_networks: Vec<IpNetwork>) -> Self {
        Planner { node_port_networks, ..self }
    }

    /// The addresses of this node in addition to those of its Node object are others now.
    pub fn set_node_addrs(&mut self, node_addrs: Vec<IpAddr>) {
        if self.node_addrs != node_addrs {
            self.node_addrs = node_addrs;
            self.index.mark_own_services();
        }
    }

    /// Enables planning: all kinds were listed completely, and all attachments were restored.
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

    /// A slot for [`Planner::attach`] that neither a pod nor the kernel uses; `None` if all are in use.
    pub fn free_slot(&self) -> Option<u32> {
        let attached = self.attachments.iter().map(|(_, attachment)| attachment.pod.slot);
        let pods = self.kernel.maps.pods.values().map(|pod| pod.slot);
        let verdicts = self.kernel.maps.verdicts.keys().map(|index| index / 2);
        let used: BTreeSet<u32> = attached.chain(pods).chain(verdicts).collect();
        (0..SLOTS_MAX).find(|slot| !used.contains(slot))
    }

    /// The sandbox has its interface. The next plan has its policies and its entries in `PODS`.
    pub fn attach(&mut self, sandbox: &str, owner: &Owner, addrs: &[IpAddr], pod: Pod) {
        let addrs: Vec<Addr> = addrs.iter().copied().map(Addr::from).collect();
        self.attachments.put(sandbox, owner, &addrs, pod, &self.index);
        self.index.changes.locals = true;
    }

    /// The sandbox is gone. The next plan deletes its entries; an unknown sandbox has no effect.
    pub fn detach(&mut self, sandbox: &str) {
        self.index.changes.locals |= self.attachments.remove(sandbox);
    }

    /// The attached sandbox's entry in `PODS`.
    pub fn attached(&self, sandbox: &str) -> Option<Pod> {
        self.attachments.get(sandbox).map(|attachment| attachment.pod)
    }

    /// The writes that are needed now; none before [`Planner::synced`].
    pub fn plan(&mut self) -> Plan {
        if !self.synced {
            return Plan::default();
        }
        self.index.shrink();
        let mut changes = std::mem::take(&mut self.index.changes);
        self.policy.note_peers(&changes.peers, &self.index);
        if self.sweep {
            changes.services.append(&mut self.index.services.keys().cloned().collect());
        }
        if self.failures.is_held(&Unit::Policy) {
            // What they were made of has changed by then: they are compiled as a whole.
            self.index.changes.policy = true;
            changes.clear_policy();
        }
        let scope = PlanScope { all_services: self.sweep, policy: changes.concern_policy(), garbage: false };
        let mut writes = Vec::new();
        if changes.nodes || changes.services.contains(API_SERVER) {
            // An external IP may have become, or have been, the address of a node or of the API server.
            changes.services.extend(self.index.with_external_ips().cloned());
        }
        if self.sweep || !changes.services.is_empty() {
            writes.extend(self.plan_services(&changes.services));
        }
        if scope.policy {
            writes.extend(self.plan_pods(&changes));
        }
        if changes.nodes {
            self.routes = routes::compile(&self.index.nodes, self.index.node_name(), self.overlay);
        }
        if changes.nodes || std::mem::take(&mut self.diff_routes) {
            let wanted = routes::diff(&self.routes, &self.kernel.maps);
            self.failures.keep_wanted(&wanted);
            writes.extend(wanted.into_iter().filter(|write| !self.failures.holds(write)));
        }
        Plan::new(writes, changes, scope)
    }

    fn plan_services(&mut self, changed: &BTreeSet<Arc<str>>) -> Vec<Write> {
        let mut addrs: Vec<IpAddr> = self.node_addrs.iter().copied().chain(self.index.node_addrs()).collect();
        addrs.extend(LOOPBACK);
        addrs.sort_unstable();
        addrs.dedup();
        let zone = self.index.this_node().map(|node| node.zone.clone()).unwrap_or_default();
        let networks = &self.node_port_networks;
        let has_node_ports =
            |addr: &IpAddr| networks.is_empty() || networks.iter().any(|network| network.contains(*addr));
        let node_port_addrs = addrs.iter().copied().filter(has_node_ports).collect();
        let others = self.index.other_addrs().filter(|addr| !addrs.contains(addr) && has_node_ports(addr));
        let other_nodes = others.collect();
        let node = NodeContext { zone, addrs, node_port_addrs, other_nodes };
        let writes = self.services.plan(changed, &self.index, &node, &self.kernel, self.sweep);
        self.sweep = false;
        let mut all = writes.backends;
        all.extend(writes.maglev);
        all.extend(writes.frontends);
        all.extend(writes.other_ports);
        all.extend(writes.deletes);
        all
    }

    /// A detached pod leaves `PODS` first; a new one enters it last, after its verdicts.
    fn plan_pods(&mut self, changes: &Changes) -> Vec<Write> {
        self.attachments.refresh(&self.index);
        let now = &self.kernel.maps.pods;
        let wanted = self.attachments.pods();
        // An address that moved to another sandbox is a new pod: another slot has its verdicts.
        let stays = |addr: &Addr, pod: &Pod| wanted.get(addr).is_some_and(|wanted| wanted.slot == pod.slot);
        let gone = now.iter().filter(|(addr, pod)| !stays(addr, pod));
        let mut writes: Vec<Write> = gone.map(|(addr, _)| Write::DeletePod(*addr)).collect();
        let policy = self.policy.plan(changes, &self.index, &self.attachments, &self.kernel);
        let generation = policy.generation.unwrap_or(self.kernel.maps.generation);
        writes.extend(policy.writes);
        let with_policy = |(addr, pod): (&Addr, &Pod)| {
            let before = now.get(addr).filter(|before| before.slot == pod.slot);
            let others = before.map_or(0, |before| before.isolated) & !isolation_bits(generation);
            let own = self.policy.isolation(pod.slot, generation);
            (*addr, Pod { isolated: others | own, ..*pod })
        };
        let changed = wanted.iter().map(with_policy).filter(|(addr, pod)| now.get(addr) != Some(pod));
        // Pods that have traffic are marked under the next generation before it is in force.
        let is_known = |addr: &Addr, pod: &Pod| now.get(addr).is_some_and(|before| before.slot == pod.slot);
        let (known, new): (Vec<_>, Vec<_>) = changed.partition(|(addr, pod)| is_known(addr, pod));
        writes.extend(known.into_iter().map(|(addr, pod)| Write::PutPod(addr, pod)));
        writes.extend(policy.generation.map(Write::SetGeneration));
        writes.extend(new.into_iter().map(|(addr, pod)| Write::PutPod(addr, pod)));
        writes
    }

    /// Takes the plan's results. What failed waits for [`Planner::retry`].
    pub fn commit(&mut self, mut plan: Plan) {
        plan.end();
        plan.succeeded().for_each(|write| self.kernel.apply(write));
        plan.succeeded().filter_map(own_unit).for_each(|unit| self.failures.succeeded(&unit));
        let policy = plan.unmade().find(|(write, _)| is_policy(write)).map(|(_, cause)| cause.clone());
        match policy {
            Some(cause) if plan.scope.garbage => self.failures.failed(Unit::Garbage, &cause),
            Some(cause) => {
                self.failures.failed(Unit::Policy, &cause);
                self.index.changes.policy = true;
            }
            None if plan.scope.policy => self.failures.succeeded(&Unit::Policy),
            None => {}
        }
        if plan.scope.garbage && plan.unmade().next().is_none() {
            self.failures.succeeded(&Unit::Garbage);
        }
        self.commit_services(&plan);
        if plan.scope.all_services {
            self.index.compact();
            self.kernel.compact();
        }
        for (write, cause) in plan.unmade() {
            if let Some(unit) = own_unit(write) {
                self.failures.failed(unit, cause);
            }
        }
    }

    /// A frontend's failure is that of its service. A set, table or list that failed alone belongs to no single service.
    fn commit_services(&mut self, plan: &Plan) {
        let mut services: BTreeMap<Arc<str>, Cause> = BTreeMap::new();
        let mut other = None;
        for (write, cause) in plan.unmade() {
            let Some(frontend) = frontend_of(write) else { continue };
            match self.services.owner(&frontend) {
                Some(key) => drop(services.entry(key.clone()).or_insert_with(|| cause.clone())),
                None => other = Some(cause),
            }
        }
        let of_frontends = plan.causes_of_frontends();
        for (position, cause) in plan.causes().filter(|(position, _)| !of_frontends.contains(position)) {
            match plan.writes.get(position) {
                Some(Write::PutBackends(..) | Write::PutMaglev(..) | Write::PutRange { .. }) => {
                    other = Some(cause)
                }
                Some(Write::DeleteBackends(..) | Write::DeleteMaglev(..) | Write::DeleteRange { .. }) => {
                    self.failures.failed(Unit::Garbage, cause);
                }
                _ => {}
            }
        }
        let tried = |unit: &Unit| match unit {
            Unit::Service(key) => plan.changes.services.contains(key),
            Unit::Services => plan.scope.all_services,
            _ => false,
        };
        self.failures.services(tried, services, other);
    }

    /// The last failure of the unit, if it has not succeeded since.
    pub fn failure(&self, unit: &Unit) -> Option<&Failure> {
        self.failures.get(unit)
    }

    /// What failed, each with its last failure.
    pub fn failures(&self) -> impl Iterator<Item = (&Unit, &Failure)> {
        self.failures.iter()
    }

    /// The next plan covers the unit again.
    pub fn retry(&mut self, unit: &Unit) {
        self.failures.release(unit);
        match unit {
            Unit::Service(key) => drop(self.index.changes.services.insert(key.clone())),
            Unit::Services => self.sweep = true,
            Unit::Policy | Unit::Garbage => {}
            Unit::Cluster(_) | Unit::Node(_) | Unit::Route(_) | Unit::Unreachable(_) => {
                self.diff_routes = true
            }
        }
    }

    /// Whether [`Planner::collect`] has something to delete, now or at its next call.
    pub fn has_garbage(&self) -> bool {
        if self.failures.is_held(&Unit::Garbage) {
            return false;
        }
        let (sets, ranges) = (self.kernel.sets.idle(), self.kernel.ranges.idle());
        !sets.is_empty()
            || !self.kernel.tables.idle().is_empty()
            || !ranges.is_empty()
            || !self.policy.garbage(&self.attachments, &self.kernel).is_empty()
    }

    /// Deletes what was unused at the previous call already, so that no program that can still read it is running. To be
    /// called at intervals of some milliseconds, with no plan outstanding.
    pub fn collect(&mut self) -> Plan {
        let mut writes = Vec::new();
        for set in self.pending_garbage.tables.intersection(self.kernel.tables.idle()) {
            let pages = self.kernel.table(*set).map(|(key, _)| *key);
            writes.extend(pages.map(Write::DeleteMaglev));
        }
        for set in self.pending_garbage.sets.intersection(self.kernel.sets.idle()) {
            let pages = self.kernel.maps.pages_of(*set).map(|(key, _)| *key);
            writes.extend(pages.map(Write::DeleteBackends));
        }
        for list in self.pending_garbage.ranges.intersection(self.kernel.ranges.idle()) {
            let ranges = self.kernel.list(*list);
            writes.extend(ranges.map(|(prefix_bits, addr)| Write::DeleteRange {
                list: *list,
                prefix_bits,
                addr,
            }));
        }
        let generation = Some(self.kernel.maps.generation);
        if self.synced && self.pending_garbage.generation == generation {
            writes.extend(self.policy.garbage(&self.attachments, &self.kernel));
        }
        let (sets, ranges) = (self.kernel.sets.idle().clone(), self.kernel.ranges.idle().clone());
        let tables = self.kernel.tables.idle().clone();
        self.pending_garbage = PendingGarbage { sets, tables, ranges, generation };
        if !writes.is_empty() {
            let starved: Vec<Arc<str>> = self.services.starved().cloned().collect();
            self.index.changes.services.extend(starved);
        }
        let scope = PlanScope { garbage: true, ..PlanScope::default() };
        Plan::new(writes, Changes::default(), scope)
    }

    /// Everything that is wrong now.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.index.problems().cloned().map(Problem::from).collect();
        problems.extend(self.policy.overflows().cloned().map(Problem::from));
        problems.extend(self.services.problems().cloned());
        problems.extend(self.routes.problems.iter().cloned().map(Problem::from));
        let refused = self.failures.iter().filter(|(_, failure)| !failure.needless);
        problems.extend(
            refused.map(|(unit, failure)| Problem::Refused {
                unit: unit.clone(),
                reason: failure.reason.clone(),
            }),
        );
        problems
    }

    /// Names what a flow event has as numbers. Of another state of the API than the event's own, a name may be missing.
    pub fn names(&self, event: &FlowEvent) -> FlowNames {
        let names = Names { index: &self.index, attachments: &self.attachments };
        let rule = self.policy.entries().rules.get(&event.rule);
        let refused = || {
            let has_refused = event.service == 0 && event.reason == DropReason::NoBackend as u16;
            let owner = self.services.owner(&other_ports_key(event.destination)).filter(|_| has_refused);
            owner.map(|key| (key, event.destination_port.get()))
        };
        names.of(event, rule, self.services.port(event.service).or_else(refused))
    }

    /// The frontends whose clients do not notice that a backend is gone.
    pub fn datagram_services(&self) -> DatagramServices {
        self.kernel.datagrams.clone()
    }

    /// The kernel's content, by the commits so far.
    pub fn kernel(&self) -> &Observed {
        &self.kernel.maps
    }
}

/// The frontend that the write is about.
fn frontend_of(write: &Write) -> Option<ServiceKey> {
    match write {
        Write::PutService(key, _) | Write::DeleteService(key) => Some(*key),
        Write::PutOtherPorts(addr, _) | Write::DeleteOtherPorts(addr) => Some(other_ports_key(*addr)),
        _ => None,
    }
}

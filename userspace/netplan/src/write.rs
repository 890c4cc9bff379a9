//! The values between netplan and the datapath: [`Write`], one change of one map, and [`Observed`], the content of all maps.
//!
//! [`Observed::apply`] defines the meaning of a write: the planner tracks the kernel with it, and tests use it as a model.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_abi::{
    Addr, BACKEND_SLOTS, Backend, BackendKey, BackendPage, MaglevKey, MaglevPage, Pod, ServiceKey,
    ServiceValue,
};
pub use skep_policy::{Prefix, VerdictEntry, VerdictMapId};

/// One change of one map, or of one route. All are idempotent: a put replaces, and deleting an absent entry succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    PutBackends(BackendKey, BackendPage),
    DeleteBackends(BackendKey),
    PutMaglev(MaglevKey, Arc<MaglevPage>),
    DeleteMaglev(MaglevKey),
    PutService(ServiceKey, ServiceValue),
    DeleteService(ServiceKey),
    /// What an address does with ports that have no frontend: flags of [`skep_abi::OtherPorts`].
    PutOtherPorts(Addr, u32),
    DeleteOtherPorts(Addr),
    /// A prefix in a list of source ranges; `prefix_bits` as in [`Write::PutClass`].
    PutRange {
        list: u32,
        prefix_bits: u32,
        addr: Addr,
    },
    DeleteRange {
        list: u32,
        prefix_bits: u32,
        addr: Addr,
    },
    /// `prefix_bits` counts from the first of the 128 bits of `addr`: an IPv4 /24 is 120.
    PutClass {
        table: u8,
        prefix_bits: u32,
        addr: Addr,
        class: u32,
    },
    DeleteClass {
        table: u8,
        prefix_bits: u32,
        addr: Addr,
    },
    ClearClasses {
        table: u8,
    },
    /// Creates a verdict map with all its entries, before any pod uses it. Does nothing if the id exists: the content of
    /// an id never changes.
    CreateVerdictMap {
        id: VerdictMapId,
        entries: Arc<[VerdictEntry]>,
    },
    /// Only planned once no index refers to the map.
    DropVerdictMap {
        id: VerdictMapId,
    },
    /// Sets `VERDICTS[index]`; for `index` see [`skep_abi::verdicts_index`].
    PutVerdicts {
        index: u32,
        map: VerdictMapId,
    },
    DeleteVerdicts {
        index: u32,
    },
    /// Writes [`skep_abi::NodeConfig::generation`] and no other field of the configuration.
    SetGeneration(u32),
    PutPod(Addr, Pod),
    DeletePod(Addr),
    PutCluster {
        prefix_bits: u32,
        addr: Addr,
    },
    DeleteCluster {
        prefix_bits: u32,
        addr: Addr,
    },
    PutNode(Addr),
    DeleteNode(Addr),
    PutRoute {
        cidr: IpNetwork,
        via: IpAddr,
    },
    DeleteRoute {
        cidr: IpNetwork,
    },
    /// A route that refuses packets, of the highest metric: pods' own routes and those of other plugins go before it.
    PutUnreachable {
        cidr: IpNetwork,
    },
    DeleteUnreachable {
        cidr: IpNetwork,
    },
}

impl Write {
    /// Puts a backend set, whose number no frontend uses yet.
    pub fn backend_set(set: u32, backends: &[Backend]) -> impl Iterator<Item = Write> + '_ {
        pages(set, backends).map(|(key, page)| Write::PutBackends(key, page))
    }
}

/// The pages of a backend set.
pub(crate) fn pages(set: u32, backends: &[Backend]) -> impl Iterator<Item = (BackendKey, BackendPage)> + '_ {
    let chunks = backends.chunks(BACKEND_SLOTS as usize).zip(0..);
    chunks.map(move |(chunk, page)| {
        let mut slots = BackendPage::default();
        slots.backends.iter_mut().zip(chunk).for_each(|(slot, backend)| *slot = *backend);
        (BackendKey { set, page }, slots)
    })
}

/// The content of the kernel's maps and routes: read once at the start, then tracked write by write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub services: BTreeMap<ServiceKey, ServiceValue>,
    /// What addresses do with ports that have no frontend; none without a flag.
    pub other_ports: BTreeMap<Addr, u32>,
    pub backends: BTreeMap<BackendKey, BackendPage>,
    /// Source ranges: list number and prefix.
    pub ranges: BTreeSet<(u32, Prefix)>,
    pub maglev: BTreeMap<MaglevKey, Arc<MaglevPage>>,
    pub classes: [BTreeMap<Prefix, u32>; 2],
    pub verdict_maps: BTreeMap<VerdictMapId, Arc<[VerdictEntry]>>,
    pub verdicts: BTreeMap<u32, VerdictMapId>,
    pub generation: u32,
    pub pods: BTreeMap<Addr, Pod>,
    pub cluster: BTreeSet<Prefix>,
    pub nodes: BTreeSet<Addr>,
    /// Only the agent's own routes, recognised by their protocol number.
    pub routes: BTreeMap<IpNetwork, IpAddr>,
    /// As `routes`, those that refuse.
    pub unreachable: BTreeSet<IpNetwork>,
}

impl Observed {
    /// The backends of a set, in order.
    pub fn backends_of(&self, set: u32, count: u32) -> impl Iterator<Item = &Backend> {
        self.pages_of(set).flat_map(|(_, page)| &page.backends).take(count as usize)
    }

    /// The pages of a backend set, in order.
    pub fn pages_of(&self, set: u32) -> impl Iterator<Item = (&BackendKey, &BackendPage)> {
        self.backends.range(BackendKey { set, page: 0 }..=BackendKey { set, page: u32::MAX })
    }

    /// The content after `write` succeeded.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::PutBackends(key, page) => drop(self.backends.insert(*key, *page)),
            Write::DeleteBackends(key) => drop(self.backends.remove(key)),
            Write::PutMaglev(key, page) => drop(self.maglev.insert(*key, page.clone())),
            Write::DeleteMaglev(key) => drop(self.maglev.remove(key)),
            Write::PutService(key, value) => drop(self.services.insert(*key, *value)),
            Write::DeleteService(key) => drop(self.services.remove(key)),
            Write::PutOtherPorts(addr, flags) => drop(self.other_ports.insert(*addr, *flags)),
            Write::DeleteOtherPorts(addr) => drop(self.other_ports.remove(addr)),
            Write::PutRange { list, prefix_bits, addr } => {
                self.ranges.insert((*list, (*prefix_bits, *addr)));
            }
            Write::DeleteRange { list, prefix_bits, addr } => {
                self.ranges.remove(&(*list, (*prefix_bits, *addr)));
            }
            Write::PutClass { table, prefix_bits, addr, class } => {
                self.table_mut(*table).insert((*prefix_bits, *addr), *class);
            }
            Write::DeleteClass { table, prefix_bits, addr } => {
                self.table_mut(*table).remove(&(*prefix_bits, *addr));
            }
            Write::ClearClasses { table } => self.table_mut(*table).clear(),
            Write::CreateVerdictMap { id, entries } => {
                self.verdict_maps.entry(*id).or_insert_with(|| entries.clone());
            }
            Write::DropVerdictMap { id } => drop(self.verdict_maps.remove(id)),
            Write::PutVerdicts { index, map } => drop(self.verdicts.insert(*index, *map)),
            Write::DeleteVerdicts { index } => drop(self.verdicts.remove(index)),
            Write::SetGeneration(generation) => self.generation = *generation,
            Write::PutPod(addr, pod) => drop(self.pods.insert(*addr, *pod)),
            Write::DeletePod(addr) => drop(self.pods.remove(addr)),
            Write::PutCluster { prefix_bits, addr } => drop(self.cluster.insert((*prefix_bits, *addr))),
            Write::DeleteCluster { prefix_bits, addr } => drop(self.cluster.remove(&(*prefix_bits, *addr))),
            Write::PutNode(addr) => drop(self.nodes.insert(*addr)),
            Write::DeleteNode(addr) => drop(self.nodes.remove(addr)),
            Write::PutRoute { cidr, via } => drop(self.routes.insert(*cidr, *via)),
            Write::DeleteRoute { cidr } => drop(self.routes.remove(cidr)),
            Write::PutUnreachable { cidr } => drop(self.unreachable.insert(*cidr)),
            Write::DeleteUnreachable { cidr } => drop(self.unreachable.remove(cidr)),
        }
    }

    fn table_mut(&mut self, table: u8) -> &mut BTreeMap<Prefix, u32> {
        let [even, odd] = &mut self.classes;
        if table & 1 == 0 { even } else { odd }
    }
}

//! Every map, by the name under which it is pinned, and the maps of one element that stand in for variables. Keys, values
//! and sizes are `skep_abi`'s.

use aya_ebpf::btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use skep_abi::{
    AFFINITY_MAX, Addr, Affinity, AffinityKey, BACKEND_PAGES_MAX, BUCKETS_MAX, BackendKey, BackendPage,
    Bucket, CLASSES_MAX, CLUSTER_MAX, CONNECTED_MAX, CONNTRACK_MAX, ClassKey, Connected, DISPLACED_MAX,
    DROPS_LEN, EXEMPTIONS_MAX, EventAccount, EventKind, FLOWS_BYTES, FRAGMENTS_MAX, Flow, FlowEvent, FlowKey,
    FragmentKey, FragmentPorts, HELD_MAX, MAGLEV_MAX, MaglevKey, MaglevPage, NODE_ADDRS_MAX, NODES_MAX,
    NodeConfig, OPENED_MAX, OTHER_PORTS_MAX, OtherPorts, PODS_MAX, Pod, RANGES_MAX, RangeKey, SERVICES_MAX,
    SLOTS_MAX, SOCKETS_MAX, ServiceKey, ServiceValue, SocketAddr, SocketKey, UPLINKS_MAX, Uplink,
    VERDICTS_MAX, Verdict, VerdictKey,
};

use crate::buffers::{Quote, Reply, Search};
use crate::packet::Packet;

/// Memory is allocated as entries come: sizes are limits, not reservations.
const NO_PREALLOC: usize = 1;

#[btf_map]
pub(crate) static CONFIG: Array<NodeConfig, 1> = Array::new();

#[btf_map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceValue, { SERVICES_MAX as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub(crate) static BACKEND_PAGES: HashMap<
    BackendKey,
    BackendPage,
    { BACKEND_PAGES_MAX as usize },
    NO_PREALLOC,
> = HashMap::new();

#[btf_map]
pub(crate) static OTHER_PORTS: HashMap<Addr, OtherPorts, { OTHER_PORTS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub(crate) static RANGES: LpmTrie<RangeKey, u32, { RANGES_MAX as usize }, NO_PREALLOC> = LpmTrie::new();

#[btf_map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, { AFFINITY_MAX as usize }> = LruHashMap::new();

#[btf_map]
pub(crate) static MAGLEV: HashMap<MaglevKey, MaglevPage, { MAGLEV_MAX as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub(crate) static PODS: HashMap<Addr, Pod, { PODS_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static BUCKETS: Array<Bucket, { BUCKETS_MAX as usize }> = Array::new();

#[btf_map]
pub(crate) static CLUSTER: LpmTrie<Addr, u32, { CLUSTER_MAX as usize }, NO_PREALLOC> = LpmTrie::new();

#[btf_map]
pub(crate) static EXEMPTIONS: LpmTrie<Addr, u32, { EXEMPTIONS_MAX as usize }, NO_PREALLOC> = LpmTrie::new();

#[btf_map]
pub(crate) static NODES: HashMap<Addr, u32, { NODES_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static NODE_ADDRS: HashMap<Addr, u32, { NODE_ADDRS_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static UPLINKS: HashMap<u32, Uplink, { UPLINKS_MAX as usize }, NO_PREALLOC> = HashMap::new();

/// The class table of even generations.
#[btf_map]
pub(crate) static CLASSES_EVEN: LpmTrie<ClassKey, u32, { CLASSES_MAX as usize }, NO_PREALLOC> =
    LpmTrie::new();

/// The class table of odd generations.
#[btf_map]
pub(crate) static CLASSES_ODD: LpmTrie<ClassKey, u32, { CLASSES_MAX as usize }, NO_PREALLOC> = LpmTrie::new();

/// One pod's verdicts under one generation.
pub(crate) type VerdictMap = LpmTrie<VerdictKey, Verdict, { VERDICTS_MAX as usize }, NO_PREALLOC>;

#[btf_map]
pub(crate) static VERDICTS: HashOfMaps<u32, VerdictMap, { 2 * SLOTS_MAX as usize }> = HashOfMaps::new();

#[btf_map]
pub(crate) static CONNTRACK: LruHashMap<FlowKey, Flow, { CONNTRACK_MAX as usize }> = LruHashMap::new();

#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { FRAGMENTS_MAX as usize }> =
    LruHashMap::new();

#[btf_map]
pub(crate) static CONNECTED: Array<Connected, { CONNECTED_MAX as usize }> = Array::new();

#[btf_map]
pub(crate) static DISPLACED: HashMap<u64, Connected, { DISPLACED_MAX as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketAddr, { SOCKETS_MAX as usize }> = LruHashMap::new();

#[btf_map]
pub(crate) static DROPS: PerCpuArray<u64, { DROPS_LEN as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static FLOWS: RingBuf<FlowEvent, { FLOWS_BYTES as usize }> = RingBuf::new();

/// What became of each kind of events.
#[btf_map]
pub(crate) static REPORTS: PerCpuArray<EventAccount, { EventKind::ALL.len() }> = PerCpuArray::new();

/// The keys of the entries that this CPU put last, a ring; the agent sets its length. See [`crate::openers`].
#[btf_map]
pub(crate) static OPENERS: PerCpuArray<FlowKey, 1> = PerCpuArray::new();

/// Where this CPU's ring continues.
#[btf_map]
pub(crate) static CURSOR: PerCpuArray<u32, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static HELD: HashMap<u32, u32, { HELD_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static OPENED: LruHashMap<u32, u64, { OPENED_MAX as usize }> = LruHashMap::new();

/// Entries that made room for newer ones.
#[btf_map]
pub(crate) static EVICTIONS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The packet that this CPU processes.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Packet, 1> = PerCpuArray::new();

/// The flow entry that this CPU fills before it is put.
#[btf_map]
pub(crate) static FRESH: PerCpuArray<Flow, 1> = PerCpuArray::new();

/// The search for a source port of this CPU.
#[btf_map]
pub(crate) static SEARCH: PerCpuArray<Search, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn search() -> Option<&'static mut Search> {
    // SAFETY: the element is this CPU's, programs do not nest on one CPU, and any bytes are a Search.
    SEARCH.get_ptr_mut(0).map(|search| unsafe { &mut *search })
}

/// Remote ends towards which no source port was free, with the tick in which that was so.
#[btf_map]
pub(crate) static EXHAUSTED: LruHashMap<FlowKey, u32, 1024> = LruHashMap::new();

/// The answer by which this CPU rejects a packet.
#[btf_map]
pub(crate) static REPLY: PerCpuArray<Reply, 1> = PerCpuArray::new();

/// The ICMP error that this CPU rewrites.
#[btf_map]
pub(crate) static QUOTE: PerCpuArray<Quote, 1> = PerCpuArray::new();

/// The service that this CPU found last.
#[btf_map]
pub(crate) static FOUND: PerCpuArray<ServiceValue, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn found() -> Option<&'static mut ServiceValue> {
    // SAFETY: the element is this CPU's, programs on packets do not nest on one CPU, and any bytes are a value.
    FOUND.get_ptr_mut(0).map(|found| unsafe { &mut *found })
}

/// The entry under the key.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<&'static mut Flow> {
    let flow = CONNTRACK.get_ptr_mut(key)?;
    // SAFETY: the kernel keeps the element valid until the program ends. Concurrent writers exist; every field is
    // written whole and a lost update costs at most a counter.
    Some(unsafe { &mut *flow })
}

/// The node's configuration.
#[inline(always)]
pub(crate) fn config() -> Option<&'static NodeConfig> {
    CONFIG.get(0)
}

/// This CPU's packet; call it once in a program run.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Packet> {
    // SAFETY: the element is this CPU's, programs do not nest on one CPU, and any bytes are a Packet: its fields
    // are integers.
    SCRATCH.get_ptr_mut(0).map(|packet| unsafe { &mut *packet })
}

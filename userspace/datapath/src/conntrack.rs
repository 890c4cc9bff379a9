//! Expiry of flow entries, so that LRU remains the last resort.
//!
//! In: the conntrack map, the clock, the datagram services in force before and after the walk. Out: entries removed. The walk
//! reads the map in batches on a thread of its own, so that nothing waits for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, IterableMap as _, Map, MapData};
use skep_abi::logic::lifetime::{Kind, Life, Observed, State, Timeouts, state};
use skep_abi::logic::openers;
use skep_abi::{Backend, Flow, FlowKey, Proto, SocketAddr};
use skep_netplan::DatagramServices;

use crate::error::DatapathError;
use crate::in_force::ServicesInForce;
use crate::maps::ignore_absent;
use crate::{Datapath, batch, blocking, pins};

const SECOND_NS: u64 = 1_000_000_000;
const CONNTRACK: &str = "CONNTRACK";
const HELD: &str = "HELD";

/// Result of one walk over the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Entries that remain.
    pub live: usize,
    /// Entries that were removed.
    pub removed: usize,
    /// Entries that the table has room for.
    pub size: usize,
}

impl Datapath {
    /// Removes the expired entries, and those that send datagrams to a backend which its service no longer has, or past a
    /// service: their clients would not notice. The future needs nothing of this value. Rare calls suffice: an idle entry
    /// costs only memory.
    pub fn collect_flows(
        &self,
        in_force: ServicesInForce,
    ) -> impl Future<Output = Result<Collected, DatapathError>> + Send + 'static {
        let (folder, timeouts) = (pins::maps(&self.bpffs), self.timeouts);
        blocking(move || collect(&folder, &in_force, timeouts))
    }
}

/// The map, opened again for a walk.
struct Table {
    flows: HashMap<MapData, FlowKey, Flow>,
    now: u64,
    timeouts: Timeouts,
}

fn collect(
    folder: &Path,
    in_force: &ServicesInForce,
    timeouts: Timeouts,
) -> Result<Collected, DatapathError> {
    let mut table = Table::open(&folder.join(CONNTRACK), timeouts)?;
    let (mut candidates, mut entries, mut held) = (Vec::new(), 0usize, BTreeMap::<u32, u32>::new());
    let before = in_force();
    let walk = |key: &FlowKey, flow: &Flow| {
        entries += 1;
        if let Some(holder) = held_by(flow) {
            *held.entry(holder).or_default() += 1;
        }
        let stale = is_stale(key, flow, &before);
        if stale || table.may_be_over(key, flow) {
            candidates.push((*key, stale.then_some(flow.destination)));
        }
    };
    batch::read(table.flows.map(), walk).map_err(DatapathError::map(CONNTRACK, "walk"))?;
    let after = if candidates.iter().any(|(_, stale)| stale.is_some()) { in_force() } else { before };
    // In the order of flow, then what leads to it: both go in one walk.
    let mut removed = 0;
    for last in [false, true] {
        for (key, stale) in &candidates {
            // The client may have reused the port during the walk.
            let Some(flow) = table.get(key) else { continue };
            let due = Kind::of(flow.flags).needs_partner() == last;
            let is_same = *stale == Some(flow.destination);
            if due && (table.is_over(key, &flow) || is_same && is_stale(key, &flow, &after)) {
                table.remove(key)?;
                removed += 1;
                if let Some(count) = held_by(&flow).and_then(|holder| held.get_mut(&holder)) {
                    *count = count.saturating_sub(1);
                }
            }
        }
    }
    let size = table.flows.map().info().map_err(DatapathError::map(CONNTRACK, "read size"))?.max_entries();
    write_held(folder, held)?;
    Ok(Collected { live: entries.saturating_sub(removed), removed, size: size as usize })
}

/// Who holds the flow; `None`: nobody, or another entry counts.
fn held_by(flow: &Flow) -> Option<u32> {
    if flow.flags & Flow::KEPT != 0 { openers::holder(flow) } else { None }
}

/// Writes how many flows each pod holds. The programs count too, but do not see entries that expire.
fn write_held(folder: &Path, mut counts: BTreeMap<u32, u32>) -> Result<(), DatapathError> {
    let failed = |operation| DatapathError::map(HELD, operation);
    let opened = MapData::from_pin(folder.join(HELD)).and_then(|data| Map::from_map_data(data)?.try_into());
    let mut held: HashMap<MapData, u32, u32> = opened.map_err(failed("open"))?;
    counts.retain(|_, count| *count != 0);
    let known: Vec<u32> = held.keys().collect::<Result<_, _>>().map_err(failed("read"))?;
    for holder in known.into_iter().filter(|holder| !counts.contains_key(holder)) {
        ignore_absent(held.remove(&holder)).map_err(failed("remove entry"))?;
    }
    for (holder, count) in counts {
        held.insert(holder, count, 0).map_err(failed("write"))?;
    }
    Ok(())
}

impl Table {
    fn open(path: &PathBuf, timeouts: Timeouts) -> Result<Table, DatapathError> {
        let opened = || HashMap::try_from(Map::from_map_data(MapData::from_pin(path)?)?);
        let flows = opened().map_err(DatapathError::map(CONNTRACK, "open"))?;
        Ok(Table { flows, now: monotonic_ns(), timeouts })
    }

    fn get(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(key, 0).ok()
    }

    /// Whether the entry is over if it needs no partner, or has none.
    fn may_be_over(&self, key: &FlowKey, flow: &Flow) -> bool {
        Life::of(flow, None).is_over(key.proto, self.now, &self.timeouts)
    }

    fn is_over(&self, key: &FlowKey, flow: &Flow) -> bool {
        let partner = if Kind::of(flow.flags).needs_partner() { self.partner(key, flow) } else { None };
        Life::of(flow, partner.as_ref()).is_over(key.proto, self.now, &self.timeouts)
    }

    fn partner(&self, key: &FlowKey, flow: &Flow) -> Option<Flow> {
        let (mut source, mut destination) = (SocketAddr::default(), SocketAddr::default());
        flow.rewrite(key, &mut source, &mut destination);
        let mut other = FlowKey::default();
        other.locate(&source, &destination, key.proto);
        self.get(&other).filter(|partner| flow.is_partner(key, partner))
    }

    fn remove(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        ignore_absent(self.flows.remove(key)).map_err(DatapathError::map(CONNTRACK, "remove entry"))
    }
}

/// Whether the entry translates from a frontend to an address that is none of its backends, or was made before the address
/// that it is to became a frontend. An association that is established stays, as a TCP connection does.
fn is_stale(key: &FlowKey, flow: &Flow, services: &DatagramServices) -> bool {
    let is = |flags| flow.flags & flags != 0;
    let translates =
        is(Flow::DESTINATION) && is(Flow::ALIAS | Flow::TRANSIT | Flow::HAIRPIN) || is(Flow::DSR);
    let bypasses = !is(Flow::SOURCE | Flow::DESTINATION) || is(Flow::MASQUERADE);
    let observed = Observed { one: flow.tcp_flags_low, other: flow.tcp_flags_high };
    let established = key.proto == Proto::SCTP && state(Kind::of(flow.flags), observed) == State::Established;
    if services.is_empty() || established || !translates && !bypasses {
        return false;
    }
    let to_low = if translates { is(Flow::REWRITE_HIGH) } else { is(Flow::FROM_HIGH) };
    let to = if to_low {
        SocketAddr::new(key.low, key.low_port)
    } else {
        SocketAddr::new(key.high, key.high_port)
    };
    let end = if translates { flow.destination } else { to };
    let backend = Backend { addr: end.addr, port: end.port, reserved: 0 };
    services.serves(&to, key.proto, &backend) == Some(false)
}

/// The programs' clock, in nanoseconds.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64
}

//! The size of the table of flows.
//!
//! In: a size that was asked for, or the machine's memory. Out: entries of `CONNTRACK`, and what follows from them. A pinned
//! table keeps its size, with the flows that it has.

use std::fs;
use std::path::Path;

use aya::maps::MapData;
use aya::util::nr_cpus;
use skep_abi::logic::openers;
use skep_abi::{CONNTRACK_MAX, SOCKETS_MAX};

use crate::error::DatapathError;

const CONNTRACK: &str = "CONNTRACK";
/// An entry takes some 200 bytes, so this is 0.3 % of the memory.
const MEMORY_PER_ENTRY: u64 = 64 << 10;
const MIN_ENTRIES: u64 = 65_536;
const MAX_ENTRIES: u64 = 2_097_152;

/// Of the flows, so many are those of datagram sockets that the socket hooks translate.
const SOCKETS_SHARE: u32 = 8;

/// So many flows come from one client of a service with session affinity.
const AFFINITY_SHARE: u32 = 8;

/// What the programs and the loader need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowTable {
    /// Entries of `CONNTRACK`.
    pub(crate) entries: u32,
    /// Keys in a CPU's ring of openers.
    pub(crate) openers: u32,
    /// Entries of `SOCKETS`.
    pub(crate) sockets: u32,
    /// Entries of `AFFINITY`.
    pub(crate) affinity: u32,
    /// Flows that are kept for one pod.
    pub(crate) pod_share: u32,
    /// Flows that are kept and that no pod opened.
    pub(crate) outside_share: u32,
}

impl FlowTable {
    fn new(entries: u32, cpus: u32) -> FlowTable {
        FlowTable {
            entries,
            openers: openers::ring_len(entries, cpus),
            sockets: (entries / SOCKETS_SHARE).min(SOCKETS_MAX),
            affinity: entries / AFFINITY_SHARE,
            pod_share: openers::pod_share(entries),
            outside_share: openers::outside_share(entries),
        }
    }

    /// Of the pinned table in the folder of maps, or else of one with `asked` entries; 0: by the machine's memory.
    pub(crate) fn of(maps: &Path, asked: u32) -> Result<FlowTable, DatapathError> {
        let cpus = nr_cpus().map_err(|(what, error)| DatapathError::file("read", what)(error))?;
        let entries = match pinned(&maps.join(CONNTRACK))? {
            Some(pinned) => {
                if asked != 0 && asked != pinned {
                    tracing::warn!(
                        asked,
                        pinned,
                        "the table of flows keeps its size until its pin is removed"
                    );
                }
                pinned
            }
            None if asked != 0 => asked,
            None => fs::read_to_string("/proc/meminfo").map_or(CONNTRACK_MAX, |text| by_memory(&text)),
        };
        Ok(FlowTable::new(entries, cpus as u32))
    }
}

fn pinned(pin: &Path) -> Result<Option<u32>, DatapathError> {
    if !pin.exists() {
        return Ok(None);
    }
    let failed = |operation| DatapathError::map(CONNTRACK, operation);
    let map = MapData::from_pin(pin).map_err(failed("open"))?;
    Ok(Some(map.info().map_err(failed("read size"))?.max_entries()))
}

/// By the first line of /proc/meminfo, in KiB.
fn by_memory(meminfo: &str) -> u32 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(CONNTRACK_MAX, |kib| ((kib << 10) / MEMORY_PER_ENTRY).clamp(MIN_ENTRIES, MAX_ENTRIES) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_grows_with_the_memory_within_bounds() {
        for (kib, entries) in [(1 << 20, 65_536), (16 << 20, 262_144), (1 << 30, 2_097_152)] {
            assert_eq!(by_memory(&format!("MemTotal:       {kib} kB\nMemFree: 1 kB\n")), entries);
        }
        assert_eq!(by_memory("nothing"), CONNTRACK_MAX);
    }
}

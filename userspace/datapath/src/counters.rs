//! Counters of the programs, over all CPUs, since the maps were made.
//!
//! In: the pinned per-CPU maps. Out: sums. A reader has handles of its own, so nothing waits for it.

use std::path::Path;

use aya::Pod;
use aya::maps::{Map, MapData, MapError, PerCpuArray};
use skep_abi::{DropReason, EventAccount, EventKind, Hook, drops_index};

use crate::error::DatapathError;
use crate::{Datapath, pins};

const DROPS: &str = "DROPS";
const EVICTIONS: &str = "EVICTIONS";
const REPORTS: &str = "REPORTS";

/// Packets dropped at one hook for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCount {
    /// Where.
    pub hook: Hook,
    /// Why.
    pub reason: DropReason,
    /// How many.
    pub packets: u64,
}

/// What became of one kind's flow events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCount {
    /// The kind.
    pub kind: EventKind,
    /// Events that were put into the ring.
    pub sent: u64,
    /// Events above the rate of their kind, which were left out.
    pub limited: u64,
    /// Events that the ring had no room for.
    pub full: u64,
}

/// Reads the counters.
pub struct Counters {
    drops: PerCpuArray<MapData, u64>,
    evictions: PerCpuArray<MapData, u64>,
    reports: PerCpuArray<MapData, EventAccount>,
}

impl Counters {
    fn open(bpffs: &Path) -> Result<Counters, DatapathError> {
        let folder = pins::maps(bpffs);
        Ok(Counters {
            drops: open(&folder, DROPS)?,
            evictions: open(&folder, EVICTIONS)?,
            reports: open(&folder, REPORTS)?,
        })
    }

    /// Drops for each hook and reason, also for those with none.
    pub fn drops(&self) -> Result<Vec<DropCount>, DatapathError> {
        let mut counts = Vec::new();
        for hook in Hook::ALL {
            let reasons = (1..DropReason::COUNT as u16).filter_map(DropReason::from_code);
            for reason in reasons {
                let packets = sum(&self.drops, drops_index(hook, reason)).map_err(failed(DROPS))?;
                counts.push(DropCount { hook, reason, packets });
            }
        }
        Ok(counts)
    }

    /// Entries of flows that made room for newer ones.
    pub fn evictions(&self) -> Result<u64, DatapathError> {
        sum(&self.evictions, 0).map_err(failed(EVICTIONS))
    }

    /// Flow events by kind.
    pub fn events(&self) -> Result<Vec<EventCount>, DatapathError> {
        let count = |kind: EventKind| {
            let accounts = self.reports.get(&(kind as u32), 0).map_err(failed(REPORTS))?;
            let total = |part: fn(&EventAccount) -> u64| accounts.iter().map(part).sum();
            Ok(EventCount {
                kind,
                sent: total(|account| account.sent),
                limited: total(|account| account.limited),
                full: total(|account| account.full),
            })
        };
        EventKind::ALL.into_iter().map(count).collect()
    }
}

impl Datapath {
    /// A reader of the counters, for any thread.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        Counters::open(&self.bpffs)
    }
}

fn failed(name: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    DatapathError::map(name, "read")
}

fn open<T: Pod>(folder: &Path, name: &'static str) -> Result<PerCpuArray<MapData, T>, DatapathError> {
    let map = MapData::from_pin(folder.join(name)).and_then(Map::from_map_data);
    map.and_then(PerCpuArray::try_from).map_err(DatapathError::map(name, "open"))
}

fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, MapError> {
    Ok(counters.get(&index, 0)?.iter().sum())
}

//! Flow events and drop counters.
//!
//! In: the ring buffer and the per-CPU counters that the programs write. Out: typed events and sums.

use aya::maps::{MapData, RingBuf};
use skep_abi::{DropReason, FlowEvent};
use tokio::io::unix::AsyncFd;

use crate::Datapath;
use crate::error::DatapathError;

/// Flow events in the order of arrival, for one reader. After dropping it, call [`Datapath::stop_flows`].
pub struct Flows {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Flows {
    /// Waits for the next event, without polling.
    pub async fn next(&mut self) -> Result<FlowEvent, DatapathError> {
        loop {
            let mut ready =
                self.ring.readable_mut().await.map_err(DatapathError::file("wait for", "FLOWS"))?;
            if let Some(event) = ready.get_inner_mut().next().and_then(|bytes| parse(&bytes)) {
                return Ok(event);
            }
            ready.clear_ready();
        }
    }
}

fn parse(bytes: &[u8]) -> Option<FlowEvent> {
    if bytes.len() < size_of::<FlowEvent>() {
        return None;
    }
    // SAFETY: there are enough bytes, and FlowEvent is plain bytes without padding.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Packets dropped for one reason since the maps were made, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCount {
    /// Why.
    pub reason: DropReason,
    /// How many.
    pub packets: u64,
}

impl Datapath {
    /// Opens the ring of flow events and makes the programs send; `None`: it was opened before.
    pub fn flows(&mut self) -> Result<Option<Flows>, DatapathError> {
        let Some(map) = self.ebpf.take_map("FLOWS") else { return Ok(None) };
        let ring = RingBuf::try_from(map).map_err(DatapathError::map("FLOWS", "open"))?;
        // SAFETY: the ring owns its descriptor and returns the same one for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) };
        let ring = ring.map_err(|error| DatapathError::file("watch", "FLOWS")(error.into_parts().1))?;
        self.maps.set_config(|config| config.observe = 1).map_err(DatapathError::map("CONFIG", "write"))?;
        Ok(Some(Flows { ring }))
    }

    /// Makes the programs stop sending events.
    pub fn stop_flows(&mut self) -> Result<(), DatapathError> {
        self.maps.set_config(|config| config.observe = 0).map_err(DatapathError::map("CONFIG", "write"))
    }

    /// Entries of flows that made room for newer ones, since the maps were made; over all CPUs.
    pub fn evictions(&self) -> Result<u64, DatapathError> {
        let per_cpu = self.maps.evictions.get(&0, 0).map_err(DatapathError::map("EVICTIONS", "read"))?;
        Ok(per_cpu.iter().sum())
    }

    /// Drops for each reason, also for those with none.
    pub fn drops(&self) -> Result<Vec<DropCount>, DatapathError> {
        let mut counts = Vec::new();
        for code in 1..DropReason::COUNT as u16 {
            let Some(reason) = DropReason::from_code(code) else { continue };
            let per_cpu =
                self.maps.drops.get(&u32::from(code), 0).map_err(DatapathError::map("DROPS", "read"))?;
            counts.push(DropCount { reason, packets: per_cpu.iter().sum() });
        }
        Ok(counts)
    }
}

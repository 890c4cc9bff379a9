//! Flow events and drop counters from the programs.

use aya::maps::{MapData, RingBuf};
use skep_abi::{DropReason, FlowEvent};
use tokio::io::unix::AsyncFd;

use crate::Datapath;
use crate::error::DatapathError;

/// Events as they come, for one reader at a time. The programs send none once it is dropped and
/// [`Datapath::stop_flows`] was called.
pub struct Flows {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Flows {
    /// The next event; waits without polling.
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
    pub reason: DropReason,
    pub packets: u64,
}

impl Datapath {
    /// Opens the ring of flow events and lets the programs send; `None` if somebody has it already.
    pub fn flows(&mut self) -> Result<Option<Flows>, DatapathError> {
        let Some(map) = self.ebpf.take_map("FLOWS") else { return Ok(None) };
        let ring = RingBuf::try_from(map).map_err(DatapathError::map("FLOWS", "open"))?;
        // SAFETY: the ring owns its descriptor and returns the same one for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) };
        let ring = ring.map_err(|error| DatapathError::file("watch", "FLOWS")(error.into_parts().1))?;
        self.maps.set_config(|config| config.observe = 1).map_err(DatapathError::map("CONFIG", "write"))?;
        Ok(Some(Flows { ring }))
    }

    /// Lets the programs send no events any more.
    pub fn stop_flows(&mut self) -> Result<(), DatapathError> {
        self.maps.set_config(|config| config.observe = 0).map_err(DatapathError::map("CONFIG", "write"))
    }

    /// Drops by reason, those that never happened included.
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

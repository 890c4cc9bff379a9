//! Flow events.
//!
//! In: the ring buffer that the programs write. Out: typed events in batches.

use aya::maps::{MapData, RingBuf};
use skep_abi::{FlowEvent, OBSERVE_ALL, OBSERVE_DROPS, OBSERVE_NOTHING};
use tokio::io::unix::AsyncFd;

use crate::Datapath;
use crate::error::DatapathError;

/// Which events the programs send. Events that are not wanted cost them one comparison for each new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observation {
    /// None.
    #[default]
    Nothing,
    /// Drops.
    Drops,
    /// Drops, and flows that open.
    All,
}

/// Flow events in the order of arrival, for one reader.
pub struct Flows {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Flows {
    /// Waits until there are events, without polling, and takes at most `max` of them.
    pub async fn next(&mut self, max: usize) -> Result<Vec<FlowEvent>, DatapathError> {
        loop {
            let mut ready =
                self.ring.readable_mut().await.map_err(DatapathError::file("wait for", "FLOWS"))?;
            let ring = ready.get_inner_mut();
            let mut events = Vec::new();
            while events.len() < max
                && let Some(bytes) = ring.next()
            {
                events.extend(parse(&bytes));
            }
            if !events.is_empty() {
                return Ok(events);
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

impl Datapath {
    /// Opens the ring of flow events; `None`: it was opened before. The programs send what [`Datapath::observe`] says.
    pub fn flows(&mut self) -> Result<Option<Flows>, DatapathError> {
        let Some(map) = self.ebpf.take_map("FLOWS") else { return Ok(None) };
        let ring = RingBuf::try_from(map).map_err(DatapathError::map("FLOWS", "open"))?;
        // SAFETY: the ring owns its descriptor and returns the same one for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) };
        let ring = ring.map_err(|error| DatapathError::file("watch", "FLOWS")(error.into_parts().1))?;
        Ok(Some(Flows { ring }))
    }

    /// Has the programs send these events.
    pub fn observe(&mut self, observation: Observation) -> Result<(), DatapathError> {
        let level = match observation {
            Observation::Nothing => OBSERVE_NOTHING,
            Observation::Drops => OBSERVE_DROPS,
            Observation::All => OBSERVE_ALL,
        };
        let written = self.maps.set_config(|config| config.observe = level);
        written.map_err(DatapathError::map("CONFIG", "write"))
    }
}

//! Counts for the metrics of both ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What passed through the tunnels of an API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Nodes with a tunnel.
    pub nodes: u64,
    /// Tunnels that are open.
    pub open: u64,
    /// Tunnels that were opened since the start.
    pub opened: u64,
    /// Connections through tunnels that are open.
    pub streams: u64,
    /// Connections that were opened through tunnels since the start.
    pub dialled: u64,
    /// Connections that could not be opened.
    pub failed: u64,
    /// Bytes to nodes and from them.
    pub sent: u64,
    pub received: u64,
}

/// What passed through the tunnels of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentCounts {
    /// Tunnels that are open.
    pub open: u64,
    /// Tunnels that were opened since the start.
    pub opened: u64,
    /// Connections for API servers that are open.
    pub streams: u64,
    /// Connections that were opened since the start.
    pub dialled: u64,
    /// Connections that could not be opened.
    pub failed: u64,
    /// Connections to addresses that are not the node's: never opened.
    pub refused: u64,
    /// Bytes to API servers and from them.
    pub sent: u64,
    pub received: u64,
}

/// The counts of one end while it runs. Shared by its tunnels.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) streams: AtomicU64,
    pub(crate) dialled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl Counters {
    /// Counts an open tunnel until the guard is dropped.
    pub(crate) fn tunnel(self: &Arc<Self>) -> Open {
        add(&self.opened, 1);
        Open::new(self.clone(), |counters| &counters.open)
    }

    /// Counts an open connection through a tunnel until the guard is dropped.
    pub(crate) fn stream(self: &Arc<Self>) -> Open {
        add(&self.dialled, 1);
        Open::new(self.clone(), |counters| &counters.streams)
    }
}

/// One of what a gauge counts; its drop ends it.
pub(crate) struct Open {
    counters: Arc<Counters>,
    gauge: fn(&Counters) -> &AtomicU64,
}

impl Open {
    fn new(counters: Arc<Counters>, gauge: fn(&Counters) -> &AtomicU64) -> Open {
        add(gauge(&counters), 1);
        Open { counters, gauge }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        (self.gauge)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

//! The bounds of the kubelet API's connections. Every pod of the cluster can reach its port.
//!
//! Connections without the API server's certificate are few and short: a new one gets in, and the oldest makes room.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Connections whose client has not shown an allowed certificate; in all, and of one address.
const MAX_UNKNOWN: usize = 256;
const MAX_UNKNOWN_OF_ADDRESS: usize = 32;

/// The open connections of unknown clients, the oldest first. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<VecDeque<Unknown>>>);

struct Unknown {
    address: IpAddr,
    close: Arc<Notify>,
}

impl Connections {
    /// Counts a new connection, and closes another if that is one too many.
    pub(super) fn enter(&self, address: IpAddr) -> Slot {
        let (address, mut all) = (address.to_canonical(), self.lock());
        let of_address = all.iter().filter(|unknown| unknown.address == address).count();
        let evicted = if of_address >= MAX_UNKNOWN_OF_ADDRESS {
            all.iter().position(|unknown| unknown.address == address)
        } else {
            (all.len() >= MAX_UNKNOWN).then_some(0)
        };
        if let Some(evicted) = evicted.and_then(|at| all.remove(at)) {
            evicted.close.notify_one();
        }
        let close = Arc::new(Notify::new());
        all.push_back(Unknown { address, close: close.clone() });
        Slot { connections: self.clone(), close }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Unknown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection; it leaves with its drop.
pub(super) struct Slot {
    connections: Connections,
    close: Arc<Notify>,
}

impl Slot {
    /// The client showed an allowed certificate: its connection no longer counts, and never makes room.
    pub(super) fn allowed(&self) {
        self.connections.lock().retain(|unknown| !Arc::ptr_eq(&unknown.close, &self.close));
    }

    /// Returns when the connection must make room for another.
    pub(super) async fn evicted(&self) {
        self.close.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.allowed();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_flood_leaves_room_for_others_and_never_closes_the_api_servers_connection() {
        let connections = Connections::default();
        let server = connections.enter(address(1));
        server.allowed();
        let other = connections.enter(address(2));
        let flood: Vec<Slot> = (0..1_000).map(|_| connections.enter(address(3))).collect();
        let evicted = |slot: &Slot| slot.evicted().now_or_never().is_some();
        assert!(!evicted(&server) && !evicted(&other));
        let first_open = flood.iter().position(|slot| !evicted(slot));
        assert_eq!(first_open, Some(1_000 - MAX_UNKNOWN_OF_ADDRESS));
        let many: Vec<Slot> = (0..=255).map(|last| connections.enter(address(last))).collect();
        assert!(evicted(&other) && !evicted(&server) && !evicted(&many[255]));
        drop((flood, many, other));
        assert!(connections.lock().is_empty());
    }
}

//! Questions that wait for the server's thread, in turns by client: one that asks without end delays itself alone.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// Bytes that wait, of all clients and of one; more is dropped. A client's share holds what a socket holds after an agent's restart.
const MAX_BYTES: usize = 8 << 20;
const MAX_BYTES_OF_CLIENT: usize = 2 << 20;
/// What a packet takes beside its bytes.
const OVERHEAD: usize = 128;

#[derive(Default)]
pub(super) struct Turns {
    of_client: HashMap<IpAddr, Waiting>,
    /// Clients with packets; the next one is in front.
    order: VecDeque<IpAddr>,
    bytes: usize,
}

#[derive(Default)]
struct Waiting {
    packets: VecDeque<(SocketAddr, Box<[u8]>)>,
    bytes: usize,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// `false`: there is no room for it.
    pub(super) fn push(&mut self, from: SocketAddr, packet: &[u8]) -> bool {
        let size = packet.len() + OVERHEAD;
        let waiting = self.of_client.entry(from.ip()).or_default();
        let is_first = waiting.packets.is_empty();
        // The first of a client always has room: others cannot take it.
        if !is_first && (self.bytes + size > MAX_BYTES || waiting.bytes + size > MAX_BYTES_OF_CLIENT) {
            return false;
        }
        waiting.packets.push_back((from, packet.into()));
        waiting.bytes += size;
        self.bytes += size;
        if is_first {
            self.order.push_back(from.ip());
        }
        true
    }

    /// The next packet of the client whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(SocketAddr, Box<[u8]>)> {
        let client = self.order.pop_front()?;
        let waiting = self.of_client.get_mut(&client)?;
        let next = waiting.packets.pop_front();
        let size = next.as_ref().map_or(0, |(_, packet)| packet.len() + OVERHEAD);
        waiting.bytes = waiting.bytes.saturating_sub(size);
        self.bytes = self.bytes.saturating_sub(size);
        if waiting.packets.is_empty() {
            self.of_client.remove(&client);
        } else {
            self.order.push_back(client);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], port))
    }

    #[test]
    fn clients_take_turns_whatever_their_ports() {
        let mut turns = Turns::default();
        for number in 0..4 {
            assert!(turns.push(client(1, 1000 + u16::from(number)), &[number]));
        }
        assert!(turns.push(client(2, 1), b"a"));
        assert!(turns.push(client(2, 1), b"b"));
        let order: Vec<u8> = std::iter::from_fn(|| turns.pop()).map(|(_, packet)| packet[0]).collect();
        assert_eq!(order, [0, b'a', 1, b'b', 2, 3]);
        assert!(turns.is_empty() && turns.of_client.is_empty() && turns.bytes == 0);
    }

    #[test]
    fn a_client_fills_its_share_and_no_other_s() {
        let mut turns = Turns::default();
        let packet = [0; 4096];
        let share = MAX_BYTES_OF_CLIENT / (packet.len() + OVERHEAD);
        for last in 1..=5 {
            let taken = (0..share + 10).filter(|_| turns.push(client(last, 1), &packet)).count();
            assert!(taken <= share && taken > 0, "{taken} of client {last}");
        }
        assert!(turns.bytes <= MAX_BYTES + packet.len() + OVERHEAD);
        assert!(turns.push(client(6, 1), &packet), "a new client's first has room");
        assert!(!turns.push(client(6, 1), &packet), "all is full");
    }
}

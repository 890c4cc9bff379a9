//! What clients may hold at once, in all and each: connections, questions that wait for upstreams.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Seats that clients take. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct Seats(Arc<Shared>);

struct Shared {
    most: usize,
    most_of_client: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of_client: HashMap<IpAddr, usize>,
}

/// A seat; its drop frees it.
pub(super) struct Seat {
    seats: Seats,
    client: IpAddr,
}

impl Seats {
    pub(super) fn new(most: usize, most_of_client: usize) -> Seats {
        Seats(Arc::new(Shared { most, most_of_client, taken: Mutex::default() }))
    }

    /// `None`: there is none free, or none for this client.
    pub(super) fn take(&self, client: IpAddr) -> Option<Seat> {
        let mut taken = self.taken();
        let own = taken.of_client.get(&client).copied().unwrap_or_default();
        if taken.all >= self.0.most || own >= self.0.most_of_client {
            return None;
        }
        taken.all += 1;
        taken.of_client.insert(client, own + 1);
        Some(Seat { seats: self.clone(), client })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.all = taken.all.saturating_sub(1);
        match taken.of_client.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.of_client.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_all_its_seats_leaves_the_others_to_others() {
        let seats = Seats::new(5, 3);
        let [greedy, other, late] = [1, 2, 3].map(|number| IpAddr::from([10, 0, 0, number]));
        let mut held: Vec<Seat> = (0..3).filter_map(|_| seats.take(greedy)).collect();
        assert_eq!(held.len(), 3);
        assert!(seats.take(greedy).is_none());
        held.extend((0..2).filter_map(|_| seats.take(other)));
        assert_eq!(held.len(), 5);
        assert!(seats.take(late).is_none(), "all are taken");
        held.pop();
        let seat = seats.take(late);
        assert!(seat.is_some());
        drop((held, seat));
        let taken = seats.taken();
        assert_eq!((taken.all, taken.of_client.len()), (0, 0));
    }
}

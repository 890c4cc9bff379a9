//! The bounds of open connections, in all and by remote address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct Seats {
    max: usize,
    max_of_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One open connection.
pub(super) struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Seats {
    pub(super) fn new(max: usize, max_of_address: usize) -> Seats {
        Seats { max, max_of_address, taken: Mutex::default() }
    }

    /// `None`: there is no seat for a connection from this address.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = client_of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.all >= self.max || of_address >= self.max_of_address {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, of_address + 1);
        Some(Seat { seats: self.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        let left = taken.by_address.get(&self.address).map_or(0, |count| count - 1);
        match left {
            0 => drop(taken.by_address.remove(&self.address)),
            left => drop(taken.by_address.insert(self.address, left)),
        }
    }
}

/// The client behind an address: a machine has a whole network of IPv6.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_seats_to_others() {
        let seats = Arc::new(Seats::new(4, 2));
        let take = |address: &str| seats.take(address.parse().unwrap());
        let first = [take("192.0.2.1"), take("192.0.2.1")];
        assert!(first.iter().all(Option::is_some) && take("::ffff:192.0.2.1").is_none());
        let others = [take("2001:db8::1"), take("2001:db8::2")];
        assert!(others.iter().all(Option::is_some) && take("192.0.2.2").is_none());
        drop(first);
        assert!(take("192.0.2.1").is_some());
        drop(others);
        assert!(seats.taken.lock().unwrap().by_address.is_empty());
    }
}

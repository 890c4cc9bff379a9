//! How many requests one client may send, and how many at once. The time is passed in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::ranges::Range;

/// Clients that are remembered. Beyond it those that have not come for a time are forgotten.
const MAX_CLIENTS: usize = 65_536;

/// The bounds of a client's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests a period of so many milliseconds, and how many more may come at once.
    pub requests: Vec<Rate>,
    pub at_once: Option<u32>,
    /// Clients without bounds.
    pub exempt: Vec<Range>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub period_ms: u64,
    pub burst: u32,
}

/// [`Rates`] at work. It outlives changes of the configuration.
#[derive(Debug)]
pub struct RateLimit {
    rates: Rates,
    clients: Mutex<HashMap<IpAddr, Client>>,
}

#[derive(Clone, Debug, Default)]
struct Client {
    /// What is left of each rate, and when that was. A request costs as much as its period has milliseconds.
    left: Vec<u64>,
    at_ms: u64,
    at_once: u32,
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Admitted {
    of: Option<(Arc<RateLimit>, IpAddr)>,
}

impl Rate {
    fn capacity(&self) -> u64 {
        (u64::from(self.burst) + 1) * self.period_ms
    }

    fn earned(&self, ms: u64) -> u64 {
        ms.saturating_mul(u64::from(self.count))
    }
}

impl RateLimit {
    pub fn new(rates: Rates) -> RateLimit {
        RateLimit { rates, clients: Mutex::default() }
    }

    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// `None`: the client has used what it may.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr, now_ms: u64) -> Option<Admitted> {
        if self.rates.exempt.iter().any(|range| range.contains(client)) {
            return Some(Admitted { of: None });
        }
        let key = key_of(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&key) {
            self.forget(&mut clients, now_ms);
        }
        let rates = &self.rates.requests;
        let client = clients.entry(key).or_insert_with(|| Client {
            left: rates.iter().map(Rate::capacity).collect(),
            at_ms: now_ms,
            at_once: 0,
        });
        let passed = now_ms.saturating_sub(client.at_ms);
        for (rate, left) in rates.iter().zip(&mut client.left) {
            *left = left.saturating_add(rate.earned(passed)).min(rate.capacity());
        }
        client.at_ms = now_ms;
        let is_free = self.rates.at_once.is_none_or(|most| client.at_once < most);
        if !is_free || rates.iter().zip(&client.left).any(|(rate, left)| *left < rate.period_ms) {
            return None;
        }
        rates.iter().zip(&mut client.left).for_each(|(rate, left)| *left -= rate.period_ms);
        client.at_once += 1;
        Some(Admitted { of: Some((self.clone(), key)) })
    }

    /// Forgets clients that have earned all back, or all idle ones if there are none.
    fn forget(&self, clients: &mut HashMap<IpAddr, Client>, now_ms: u64) {
        let longest = self.rates.requests.iter().map(|rate| rate.capacity() / u64::from(rate.count.max(1)));
        let longest = longest.max().unwrap_or_default();
        clients.retain(|_, client| client.at_once > 0 || now_ms.saturating_sub(client.at_ms) <= longest);
        if clients.len() >= MAX_CLIENTS {
            clients.retain(|_, client| client.at_once > 0);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some((limit, key)) = &self.of else { return };
        let mut clients = limit.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get_mut(key) {
            client.at_once = client.at_once.saturating_sub(1);
        }
    }
}

/// A machine has a whole network of IPv6.
fn key_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: Vec<Rate>, at_once: Option<u32>) -> Arc<RateLimit> {
        let exempt = vec![Range::parse("192.0.2.9").unwrap()];
        Arc::new(RateLimit::new(Rates { requests, at_once, exempt }))
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate() {
        let limit = limit(vec![Rate { count: 2, period_ms: 1_000, burst: 3 }], None);
        let admit = |ip: &str, now: u64| limit.admit(ip.parse().unwrap(), now).is_some();
        assert_eq!((0..10).filter(|_| admit("192.0.2.1", 0)).count(), 4);
        assert!(admit("192.0.2.2", 0), "another client has its own");
        assert!(!admit("192.0.2.1", 499) && admit("192.0.2.1", 500) && !admit("192.0.2.1", 501));
        assert_eq!((0..10).filter(|_| admit("192.0.2.1", 1_000_000)).count(), 4);
        assert!((0..100).all(|_| admit("192.0.2.9", 0)), "an exempt client");
        let slow = self::limit(vec![Rate { count: 1, period_ms: 60_000, burst: 0 }], None);
        let admit = |now: u64| slow.admit("192.0.2.1".parse().unwrap(), now).is_some();
        assert!(admit(0) && !admit(59_999) && admit(60_000));
    }

    #[test]
    fn requests_at_once_are_bounded_until_they_end() {
        let limit = limit(vec![], Some(2));
        let admit = || limit.admit("2001:db8::1".parse().unwrap(), 0);
        let (first, _second) = (admit().unwrap(), admit().unwrap());
        assert!(admit().is_none() && limit.admit("2001:db8::2".parse().unwrap(), 0).is_none());
        drop(first);
        assert!(admit().is_some());
    }
}

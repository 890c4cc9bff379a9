//! Addresses for pods from the node's podCIDRs.
//!
//! In: networks, addresses in use. Out: one address of each network. Allocation is round-robin, so a released address
//! is reused as late as possible: conntrack entries and caches for its last holder expire first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Addresses used of one network at most; the first ones.
const MAX_POOL_SIZE: u128 = 1 << 16;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("the node has no podCIDR yet")]
    NoNetwork,
    #[error("no free address in {network}")]
    Exhausted { network: IpNetwork },
    #[error("podCIDR {network} is too small: it has no address for a pod")]
    TooSmall { network: IpNetwork },
}

/// One pool for each network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipam {
    pools: Vec<Pool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    network: IpNetwork,
    /// Number of addresses in the pool, from the network's first one.
    size: u32,
    /// One bit for each address.
    used: Vec<u64>,
    /// Offset at which the next search starts.
    next: u32,
}

impl Ipam {
    /// Never allocated: the network address, the first address (usually the gateway) and IPv4's broadcast address.
    pub fn new(networks: &[IpNetwork]) -> Result<Self, IpamError> {
        let pools = networks.iter().map(|network| Pool::new(*network)).collect::<Result<_, _>>()?;
        Ok(Ipam { pools })
    }

    pub fn networks(&self) -> Vec<IpNetwork> {
        self.pools.iter().map(|pool| pool.network).collect()
    }

    /// One address of each network, or none at all.
    pub fn allocate(&mut self) -> Result<Vec<IpAddr>, IpamError> {
        if self.pools.is_empty() {
            return Err(IpamError::NoNetwork);
        }
        let mut allocated = Vec::with_capacity(self.pools.len());
        for at in 0..self.pools.len() {
            let Some(pool) = self.pools.get_mut(at) else { continue };
            match pool.allocate() {
                Some(addr) => allocated.push(addr),
                None => {
                    let network = pool.network;
                    self.release(&allocated);
                    return Err(IpamError::Exhausted { network });
                }
            }
        }
        Ok(allocated)
    }

    /// Marks addresses as used that pods already have. Ignores addresses outside the networks.
    pub fn restore(&mut self, addrs: &[IpAddr]) {
        for (pool, offset) in self.locate(addrs) {
            if let Some(pool) = self.pools.get_mut(pool) {
                pool.set(offset, true);
                pool.next = offset + 1;
            }
        }
    }

    /// Releases addresses; free ones stay free. Ignores addresses outside the networks.
    pub fn release(&mut self, addrs: &[IpAddr]) {
        for (pool, offset) in self.locate(addrs) {
            if let Some(pool) = self.pools.get_mut(pool) {
                pool.set(offset, pool.is_reserved(offset));
            }
        }
    }

    /// Pool index and offset of each address inside a network.
    fn locate(&self, addrs: &[IpAddr]) -> Vec<(usize, u32)> {
        let locate = |addr: &IpAddr| {
            let mut pools = self.pools.iter().enumerate();
            pools.find_map(|(number, pool)| Some((number, pool.offset(*addr)?)))
        };
        addrs.iter().filter_map(locate).collect()
    }
}

impl Pool {
    fn new(network: IpNetwork) -> Result<Self, IpamError> {
        let host_bits = u32::from(if network.is_ipv4() { 32 } else { 128 } - network.prefix());
        let size = 1u128.checked_shl(host_bits).unwrap_or(MAX_POOL_SIZE).min(MAX_POOL_SIZE) as u32;
        let words = size.div_ceil(64) as usize;
        let mut pool = Pool { network, size, used: vec![0; words], next: 0 };
        for offset in 0..size {
            if pool.is_reserved(offset) {
                pool.set(offset, true);
            }
        }
        match (0..size).any(|offset| !pool.is_used(offset)) {
            true => Ok(pool),
            false => Err(IpamError::TooSmall { network }),
        }
    }

    fn is_reserved(&self, offset: u32) -> bool {
        let broadcast = self.network.is_ipv4() && self.addr(offset) == self.network.broadcast();
        offset <= 1 || broadcast
    }

    fn allocate(&mut self) -> Option<IpAddr> {
        let start = self.next % self.size;
        let offset = (start..self.size).chain(0..start).find(|offset| !self.is_used(*offset))?;
        self.set(offset, true);
        self.next = offset + 1;
        Some(self.addr(offset))
    }

    fn is_used(&self, offset: u32) -> bool {
        self.used.get((offset / 64) as usize).is_none_or(|word| word & (1 << (offset % 64)) != 0)
    }

    fn set(&mut self, offset: u32, used: bool) {
        let bit = 1 << (offset % 64);
        match self.used.get_mut((offset / 64) as usize) {
            Some(word) if used => *word |= bit,
            Some(word) => *word &= !bit,
            None => {}
        }
    }

    fn addr(&self, offset: u32) -> IpAddr {
        match self.network.network() {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(u128::from(offset))).into(),
        }
    }

    fn offset(&self, addr: IpAddr) -> Option<u32> {
        let number = |addr: IpAddr| match addr {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        let inside = addr.is_ipv4() == self.network.is_ipv4() && self.network.contains(addr);
        let offset = inside.then(|| number(addr) - number(self.network.network()))?;
        u32::try_from(offset).ok().filter(|offset| *offset < self.size)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn ipam(networks: &[&str]) -> Ipam {
        let networks: Vec<IpNetwork> = networks.iter().map(|n| n.parse().unwrap()).collect();
        Ipam::new(&networks).unwrap()
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_allocated() {
        let mut ipam = ipam(&["10.244.0.0/29"]);
        let allocated: Vec<String> =
            std::iter::from_fn(|| ipam.allocate().ok()).map(|addrs| addrs[0].to_string()).collect();
        assert_eq!(allocated, ["10.244.0.2", "10.244.0.3", "10.244.0.4", "10.244.0.5", "10.244.0.6"]);
    }

    #[test]
    fn released_address_is_reused_after_all_others() {
        let mut ipam = ipam(&["10.244.0.0/29"]);
        let first = ipam.allocate().unwrap();
        ipam.release(&first);
        let later: Vec<_> = (0..4).map(|_| ipam.allocate().unwrap()).collect();
        assert!(!later.contains(&first));
        assert_eq!(ipam.allocate().unwrap(), first);
    }

    #[test]
    fn failure_in_one_family_allocates_nothing_in_the_other() {
        let mut ipam = ipam(&["10.244.0.0/24", "fd00::/126"]);
        assert_eq!(ipam.allocate().unwrap().len(), 2);
        assert_eq!(ipam.allocate().unwrap().len(), 2);
        let before = ipam.pools[0].used.clone();
        assert!(matches!(ipam.allocate(), Err(IpamError::Exhausted { .. })));
        assert_eq!(ipam.pools[0].used, before);
    }

    #[test]
    fn huge_network_is_used_in_part() {
        let mut ipam = ipam(&["fd00:10:244::/64"]);
        assert_eq!(ipam.allocate().unwrap(), vec!["fd00:10:244::2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn network_without_room_is_refused() {
        let network = "10.0.0.0/31".parse().unwrap();
        assert_eq!(Ipam::new(&[network]), Err(IpamError::TooSmall { network }));
    }

    proptest! {
        #[test]
        fn no_address_is_held_twice(steps in proptest::collection::vec(any::<(bool, u8)>(), 1..200)) {
            let mut ipam = ipam(&["10.244.3.0/27"]);
            let mut held: Vec<Vec<IpAddr>> = Vec::new();
            for (take, which) in steps {
                if take || held.is_empty() {
                    match ipam.allocate() {
                        Ok(addrs) => held.push(addrs),
                        Err(_) => prop_assert_eq!(held.len(), 29),
                    }
                } else {
                    let freed = held.swap_remove(which as usize % held.len());
                    ipam.release(&freed);
                }
                let distinct: HashSet<_> = held.iter().flatten().collect();
                prop_assert_eq!(distinct.len(), held.len());
                // A successor that restores the held addresses allocates none of them again.
                let mut restored = Ipam::new(&ipam.networks()).unwrap();
                held.iter().for_each(|addrs| restored.restore(addrs));
                if let Ok(addrs) = restored.allocate() {
                    prop_assert!(!held.contains(&addrs));
                }
            }
        }
    }
}

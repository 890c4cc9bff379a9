//! Hashes that are the same on every machine and in every version: every node picks the same backend for a flow.

use crate::{Addr, Be16, Proto};

/// The hash of an address and a port; different salts give independent hashes.
#[inline(always)]
pub const fn socket_addr_hash(addr: &Addr, port: Be16, salt: u32) -> u64 {
    let [a, b, c, d] = addr.0;
    let first = (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64;
    let second = (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64;
    mix(mix(mix(first) ^ second) ^ (salt as u64) << 32 ^ port.get() as u64)
}

/// The hash of a flow from outside, by the client's address and port.
#[inline(always)]
pub const fn flow_hash(client: &Addr, port: Be16, proto: Proto) -> u32 {
    (socket_addr_hash(client, port, proto.0 as u32) >> 32) as u32
}

/// Maps a hash to `0..size`, each value with the same probability.
#[inline(always)]
pub const fn scale(hash: u32, size: u32) -> u32 {
    ((hash as u64 * size as u64) >> 32) as u32
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); the first step keeps 0 from staying 0.
#[inline(always)]
const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::IpAddr;
    use core::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hash_is_the_same_in_every_version() {
        let client = Addr::from(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(flow_hash(&client, Be16::new(40_000), Proto::TCP), 3_457_452_872);
    }

    #[test]
    fn neighbouring_clients_spread_evenly() {
        let mut shares = [0u32; 16];
        for host in 0..64u8 {
            for port in 0..256u16 {
                let client = Addr::from(IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
                let hash = flow_hash(&client, Be16::new(32_768 + port), Proto::TCP);
                shares[scale(hash, 16) as usize] += 1;
            }
        }
        // 1,024 each is the mean; five standard deviations are 160.
        assert!(shares.iter().all(|share| share.abs_diff(1_024) < 160), "{shares:?}");
    }

    proptest! {
        #[test]
        fn scaled_hashes_are_below_the_size_and_in_order(a: u32, b: u32, size in 1..u32::MAX) {
            prop_assert!(scale(a, size) < size);
            prop_assert!(a > b || scale(a, size) <= scale(b, size));
        }

        #[test]
        fn mix_is_one_to_one(a: u64, b: u64) {
            prop_assert_eq!(mix(a) == mix(b), a == b);
        }
    }
}

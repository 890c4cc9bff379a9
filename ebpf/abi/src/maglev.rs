//! Maglev tables: `MAGLEV`, for every backend set that the outside reaches which backend a client's flow goes to.
//!
//! The table of a set depends on nothing but its backends, and a flow's place in it on nothing but the client's end:
//! every node picks the same backend for the same flow. Only the first packet of a flow looks here.

use crate::{Addr, Be16, Proto};

/// `MAGLEV`: hash of [`MaglevKey`] to [`MaglevPage`]. Pages come as sets do; the size is a limit.
pub const MAGLEV_MAX: u32 = 262_144;

/// Slots of a page: with them an element of the map fills an allocation of 512 bytes to the last byte.
pub const MAGLEV_SLOTS: u32 = 224;

/// Slots a backend: shares then differ by at most one per cent, and so does the disruption.
const SLOTS_PER_BACKEND: u32 = 100;
/// The largest primes that fit into 1, 2, 4 ... pages.
const SIZES: [u32; 12] =
    [223, 443, 887, 1_789, 3_583, 7_159, 14_327, 28_669, 57_331, 114_679, 229_373, 458_747];

/// A part of a set's table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MaglevKey {
    /// As in [`crate::ServiceValue::set`].
    pub set: u32,
    /// Slot of the table by [`MAGLEV_SLOTS`].
    pub page: u32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MaglevPage {
    /// Slots of the backend set; those behind the table's end are 0 and never read.
    pub slots: [u16; MAGLEV_SLOTS as usize],
}

impl Default for MaglevPage {
    fn default() -> Self {
        MaglevPage { slots: [0; MAGLEV_SLOTS as usize] }
    }
}

/// Slots of the table of a set of `count` backends: the first prime that gives each its slots, the largest for even
/// more. Backends that come and go within one step leave it as it is.
///
/// 0: there is no table. One backend needs none, and more than a slot can name are shared out by [`scale`] alone.
#[inline(always)]
pub const fn maglev_size(count: u32) -> u32 {
    if count < 2 || count > u16::MAX as u32 {
        return 0;
    }
    let wanted = count * SLOTS_PER_BACKEND;
    let mut step = 0;
    while step < SIZES.len() - 1 && SIZES[step] < wanted {
        step += 1;
    }
    SIZES[step]
}

/// A number for an end that is the same on every machine and in every version.
#[inline(always)]
pub const fn end_hash(addr: &Addr, port: Be16, salt: u32) -> u64 {
    let [a, b, c, d] = addr.0;
    let first = (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64;
    let second = (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64;
    mix(mix(mix(first) ^ second) ^ (salt as u64) << 32 ^ port.get() as u64)
}

/// Of a flow from outside, by the client's end.
#[inline(always)]
pub const fn flow_hash(client: &Addr, port: Be16, proto: Proto) -> u32 {
    (end_hash(client, port, proto.0 as u32) >> 32) as u32
}

/// A hash to `0..size`, each with the same chance.
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

crate::plain!(MaglevKey: 8, MaglevPage: 448);

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn size_grows_in_steps_and_ends() {
        let sizes = [0, 1, 2, 3, 4, 5, 4_587, 65_535, 65_536].map(maglev_size);
        assert_eq!(sizes, [0, 0, 223, 443, 443, 887, 458_747, 458_747, 0]);
        assert!(SIZES.iter().zip(0..).all(|(size, step)| *size <= MAGLEV_SLOTS << step));
    }

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
}

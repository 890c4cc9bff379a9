//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are of 16-bit words as memory holds them: one's complement addition does not depend on the byte order (RFC 1071,
//! 2 B). A sum may also be of 32-bit words, which fold to the same.

use crate::{Addr, SocketAddr};

/// A one's complement sum in 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of two 32-bit sums, as 32 bits.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// What a word that changes from `old` to `new` adds to a sum (RFC 1624, equation 3). Equal words add zero, as 0xffff.
#[inline(always)]
pub const fn difference(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// [`difference`] of an address, over all 16 bytes. It holds for IPv4 too: equal words add nothing.
#[inline(always)]
pub fn addr_difference(old: &Addr, new: &Addr) -> u64 {
    let mut sum = 0;
    for i in 0..4 {
        sum += difference(old.0[i], new.0[i]);
    }
    sum
}

/// What the rewriting of both ends adds to the sums of a packet's headers, each folded. None of them is 0, since equal words add
/// 0xffff.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Differences {
    /// Of the addresses: to that of an IPv4 header.
    pub addresses: u16,
    /// Of addresses and ports: to that of the transport.
    pub ends: u16,
}

impl Differences {
    /// Of a packet whose ends, the first of each pair, become the second.
    #[inline(always)]
    pub fn of(source: [&SocketAddr; 2], destination: [&SocketAddr; 2]) -> Self {
        let ([old_source, new_source], [old_destination, new_destination]) = (source, destination);
        let addresses = addr_difference(&old_source.addr, &new_source.addr)
            + addr_difference(&old_destination.addr, &new_destination.addr);
        let ports = !old_source.port.0 as u64
            + new_source.port.0 as u64
            + !old_destination.port.0 as u64
            + new_destination.port.0 as u64;
        Differences { addresses: fold(addresses), ends: fold(addresses + ports) }
    }

    /// Both in one word, as [`crate::Flow::extra`] has them.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        (self.addresses as u32) << 16 | self.ends as u32
    }

    /// From that word.
    #[inline(always)]
    pub const fn of_word(word: u32) -> Self {
        Differences { addresses: (word >> 16) as u16, ends: word as u16 }
    }
}

/// The checksum after a change whose [`difference`]s add up to `difference`.
#[inline(always)]
pub const fn updated(check: u16, difference: u64) -> u16 {
    !fold(!check as u64 + difference)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::Be16;

    /// RFC 1071, 4.1, word by word.
    fn reference(words: &[u16]) -> u16 {
        let mut sum = 0u32;
        for word in words {
            sum += u32::from(*word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn words(addr: &Addr) -> Vec<u16> {
        addr.0.iter().flat_map(|word| [*word as u16, (*word >> 16) as u16]).collect()
    }

    /// 0 and 0xffff are the same number in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a % 0xffff == b % 0xffff
    }

    #[test]
    fn fold_of_the_rfc_1071_example() {
        let sum = 0x0001_u64 + 0xf203 + 0xf4f5 + 0xf6f7;
        assert_eq!((sum, fold(sum)), (0x2_ddf0, 0xddf2));
    }

    #[test]
    fn update_of_the_rfc_1624_example() {
        assert_eq!(updated(0xdd2f, !0x5555_u16 as u64 + 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn fold_is_the_sum_of_all_words(sum: u64) {
            let parts = [sum as u16, (sum >> 16) as u16, (sum >> 32) as u16, (sum >> 48) as u16];
            prop_assert!(same(fold(sum), reference(&parts)));
            prop_assert_eq!(fold(sum) == 0, sum == 0);
        }

        #[test]
        fn adding_sums_folds_as_the_sum(a: u32, b: u32) {
            prop_assert!(same(fold(add(a, b) as u64), fold(a as u64 + b as u64)));
        }

        #[test]
        fn update_is_the_checksum_of_the_new_packet(old: [u32; 4], new: [u32; 4], rest: Vec<u16>) {
            let (old, new) = (Addr(old), Addr(new));
            let of = |addr: &Addr| !reference(&[&words(addr)[..], &rest].concat());
            prop_assert!(same(updated(of(&old), addr_difference(&old, &new)), of(&new)));
        }

        #[test]
        fn differences_are_those_of_the_words(old: [[u32; 4]; 2], new: [[u32; 4]; 2], ports: [[u16; 2]; 2], check: u16) {
            let end = |addr: [u32; 4], port| SocketAddr::new(Addr(addr), Be16(port));
            let from = [end(old[0], ports[0][0]), end(old[1], ports[0][1])];
            let to = [end(new[0], ports[1][0]), end(new[1], ports[1][1])];
            let differences = Differences::of([&from[0], &to[0]], [&from[1], &to[1]]);
            prop_assert!(differences.addresses != 0 && differences.ends != 0);
            prop_assert_eq!(Differences::of_word(differences.word()), differences);
            let addresses = addr_difference(&from[0].addr, &to[0].addr) + addr_difference(&from[1].addr, &to[1].addr);
            let mut ends = addresses;
            for i in 0..2 {
                ends += u64::from(!from[i].port.0) + u64::from(to[i].port.0);
            }
            prop_assert!(same(updated(check, differences.addresses.into()), updated(check, addresses)));
            prop_assert!(same(updated(check, differences.ends.into()), updated(check, ends)));
        }

        #[test]
        fn update_back_and_forth_is_no_change(check: u16, old: [u32; 4], new: [u32; 4]) {
            let (old, new) = (Addr(old), Addr(new));
            let there = updated(check, addr_difference(&old, &new));
            prop_assert!(same(updated(there, addr_difference(&new, &old)), check));
        }
    }
}

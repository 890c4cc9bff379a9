//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are of 16-bit words as memory holds them: one's complement addition does not depend on the byte order (RFC 1071,
//! 2 B). A sum may also be of 32-bit words, which fold to the same.

use crate::Addr;

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
        fn update_back_and_forth_is_no_change(check: u16, old: [u32; 4], new: [u32; 4]) {
            let (old, new) = (Addr(old), Addr(new));
            let there = updated(check, addr_difference(&old, &new));
            prop_assert!(same(updated(there, addr_difference(&new, &old)), check));
        }
    }
}

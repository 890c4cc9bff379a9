//! Port ranges as prefixes of the 16-bit port number.
//!
//! In: first and last port. Out: the prefixes that cover them.

/// The fewest (first port, prefix length 0 to 16) that cover `first..=last` and nothing else; at most 30.
pub fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut prefixes = Vec::new();
    let (mut at, end) = (u32::from(first), u32::from(last));
    while at <= end {
        // The largest block that may start here by alignment, shrunk until it fits.
        let mut size_bits = at.trailing_zeros().min(16);
        while at + (1 << size_bits) - 1 > end {
            size_bits -= 1;
        }
        prefixes.push((at as u16, 16 - size_bits));
        at += 1 << size_bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::port_prefixes;

    proptest! {
        #[test]
        fn prefixes_cover_the_range_exactly_once(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes = port_prefixes(first, last);
            prop_assert!(prefixes.len() <= 30);
            let mut next = u32::from(first);
            for (port, bits) in prefixes {
                prop_assert_eq!(u32::from(port), next);
                prop_assert_eq!(u32::from(port) & ((1 << (16 - bits)) - 1), 0);
                next += 1 << (16 - bits);
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }

    #[test]
    fn the_whole_range_is_one_prefix() {
        assert_eq!(port_prefixes(0, 65535), vec![(0, 0)]);
    }
}

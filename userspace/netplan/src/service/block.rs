//! Ranges of ports to blocks, which the programs look up.
//!
//! In: a range. Out: the fewest aligned blocks of 1, 16, 256, 4,096 or 65,536 ports that it consists of, at most 120. The one of
//! 65,536 also has port 0, which no packet addresses.

use skep_abi::{Be16, Proto, Scope, ServiceKey};

/// See [`ServiceKey::block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    port: u16,
    level: u8,
}

impl Block {
    pub(super) fn of_port(port: u16) -> Block {
        Block { port, level: 0 }
    }

    pub(super) fn of_range((first, last): (u16, u16)) -> Vec<Block> {
        let mut blocks = Vec::new();
        let (mut next, end) = (if first == 1 { 0 } else { u32::from(first) }, u32::from(last) + 1);
        while next < end {
            let fits = |level: &u8| next % size(*level) == 0 && next + size(*level) <= end;
            let level = (0..=Scope::LEVELS).rev().find(fits).unwrap_or(0);
            blocks.push(Block { port: next as u16, level });
            next += size(level);
        }
        // Port 0 alone is not worth an entry, and its block must not be mistaken for all other ports.
        blocks.retain(|block| block.port != 0 || block.level > 0);
        blocks
    }

    pub(super) fn key(self, addr: std::net::IpAddr, proto: Proto, scope: Scope) -> ServiceKey {
        ServiceKey::block(addr.into(), Be16::new(self.port), proto, scope, self.level)
    }
}

fn size(level: u8) -> u32 {
    1 << (u32::from(level) * Scope::LEVEL_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_ports_are_one_block() {
        assert_eq!(Block::of_range((1, u16::MAX)), [Block { port: 0, level: 4 }]);
        assert_eq!(Block::of_range((4096, 4351)), [Block { port: 4096, level: 2 }]);
        assert_eq!(Block::of_range((30_000, 30_100)).len(), 11);
    }

    proptest! {
        #[test]
        fn blocks_are_the_range_and_few(ends in (1..=u16::MAX, 1..=u16::MAX)) {
            let (first, last) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let blocks = Block::of_range((first, last));
            prop_assert!(blocks.len() <= 120);
            let ports = blocks.iter().flat_map(|block| {
                (0..size(block.level)).map(|n| u32::from(block.port) + n)
            });
            let ports: Vec<u32> = ports.filter(|port| *port != 0).collect();
            prop_assert!(ports.iter().copied().eq(u32::from(first)..=u32::from(last)));
        }
    }
}

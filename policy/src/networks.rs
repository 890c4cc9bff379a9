//! Networks and the sets of rules that their addresses meet.
//!
//! In: ipBlocks, each with the sets of peers that contain it. Out: the networks where the answer changes, and the answer for
//! an address by binary search.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use skep_abi::Addr;

use crate::entries::{Prefix, prefix_of};
use crate::model::IpBlock;

/// A network whose addresses are in other sets of peers than those around it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    prefix: Prefix,
    /// Sorted numbers of sets of peers.
    sets: Vec<u32>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    /// A network comes before everything inside it.
    networks: Vec<Network>,
    all: Runs,
    /// Without networks of one address.
    wide: Runs,
}

/// Runs of addresses with equal answers: the first address of each, and the network that gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs(Vec<(u128, Option<u32>)>);

impl Networks {
    pub(crate) fn new(blocks: &BTreeMap<&IpBlock, Vec<u32>>) -> Self {
        let networks = changes(blocks);
        let all = Runs::new(networks.iter().zip(0..));
        let wide = Runs::new(networks.iter().zip(0..).filter(|(network, _)| network.prefix.0 < 128));
        Networks { networks, all, wide }
    }

    /// Every network with the sets of peers of its addresses, except those of networks inside it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Prefix, &[u32])> {
        self.networks.iter().map(|network| (network.prefix, network.sets.as_slice()))
    }

    /// The innermost network that contains the address, by its position in [`Networks::iter`].
    pub(crate) fn at(&self, addr: Addr) -> Option<u32> {
        self.all.at(bits(addr))
    }

    /// As [`Networks::at`], as if there were no network of this one address.
    pub(crate) fn around(&self, addr: Addr) -> Option<u32> {
        self.wide.at(bits(addr))
    }

    /// As [`Networks::at`] for many addresses, of which neighbours are mostly in one network.
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk::new(&self.all)
    }

    /// As [`Networks::around`] for many addresses.
    pub(crate) fn walk_around(&self) -> Walk<'_> {
        Walk::new(&self.wide)
    }

    /// The sets of peers that contain the network; none outside of all.
    pub(crate) fn sets(&self, network: Option<u32>) -> &[u32] {
        let network = network.and_then(|network| self.networks.get(network as usize));
        network.map(|network| network.sets.as_slice()).unwrap_or_default()
    }

    /// The sets of peers of the network of this one address, if it differs from what is around it.
    pub(crate) fn single(&self, addr: Addr) -> Option<&[u32]> {
        let found = self
            .networks
            .binary_search_by_key(&(bits(addr), 128), |network| (bits(network.prefix.1), network.prefix.0));
        Some(self.networks.get(found.ok()?)?.sets.as_slice())
    }
}

impl Runs {
    fn new<'n>(networks: impl Iterator<Item = (&'n Network, u32)>) -> Runs {
        let mut runs = Runs::default();
        // The networks around the current one, with their last addresses.
        let mut open: Vec<(u128, u32)> = Vec::new();
        for (network, number) in networks {
            let (length, addr) = network.prefix;
            let first = bits(addr);
            runs.close(&mut open, Some(first));
            runs.push(first, Some(number));
            let host = if length == 0 { u128::MAX } else { (1u128 << (128 - length)).wrapping_sub(1) };
            open.push((first | host, number));
        }
        runs.close(&mut open, None);
        runs
    }

    /// Ends the networks that end before `next`.
    fn close(&mut self, open: &mut Vec<(u128, u32)>, next: Option<u128>) {
        while let Some((last, _)) = open.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
            if let Some(after) = last.checked_add(1) {
                self.push(after, open.last().map(|(_, number)| *number));
            }
        }
    }

    fn push(&mut self, first: u128, network: Option<u32>) {
        // What begins at the same address and comes later is further inside, or around what ended.
        while self.0.pop_if(|(start, _)| *start == first).is_some() {}
        self.0.push((first, network));
    }

    fn at(&self, addr: u128) -> Option<u32> {
        let after = self.after(addr);
        self.0.get(after.checked_sub(1)?)?.1
    }

    /// The position of the run after that of the address.
    fn after(&self, addr: u128) -> usize {
        self.0.partition_point(|(first, _)| *first <= addr)
    }
}

/// Finds networks, and knows the run in which it was last.
pub(crate) struct Walk<'n> {
    runs: &'n Runs,
    first: u128,
    last: u128,
    network: Option<u32>,
}

impl Walk<'_> {
    fn new(runs: &Runs) -> Walk<'_> {
        let mut walk = Walk { runs, first: 0, last: 0, network: None };
        walk.go_to(0);
        walk
    }

    /// As [`Networks::at`] or [`Networks::around`].
    pub(crate) fn at(&mut self, addr: Addr) -> Option<u32> {
        let addr = bits(addr);
        if !(self.first..=self.last).contains(&addr) {
            self.go_to(addr);
        }
        self.network
    }

    fn go_to(&mut self, addr: u128) {
        let runs = &self.runs.0;
        let after = self.runs.after(addr);
        let run = after.checked_sub(1).and_then(|at| runs.get(at));
        (self.first, self.network) = run.copied().unwrap_or((0, None));
        self.last = runs.get(after).map_or(u128::MAX, |(first, _)| first - 1);
    }
}

/// Walks all networks from the outside in. Each inherits the blocks of the one around it, gains those that start at it and
/// loses those that except it.
fn changes(blocks: &BTreeMap<&IpBlock, Vec<u32>>) -> Vec<Network> {
    #[derive(Default)]
    struct Mark {
        gains: Vec<u32>,
        loses: Vec<u32>,
    }
    struct Open {
        at: (u128, u32),
        blocks: Vec<u32>,
        sets: Vec<u32>,
    }
    let mut marks: BTreeMap<(u128, u32), Mark> = BTreeMap::new();
    for (block, number) in blocks.keys().zip(0..) {
        marks.entry(ordered(&block.cidr)).or_default().gains.push(number);
        for except in &block.except {
            marks.entry(ordered(except)).or_default().loses.push(number);
        }
    }
    if marks.is_empty() {
        return Vec::new();
    }
    let sets_of: Vec<&[u32]> = blocks.values().map(Vec::as_slice).collect();
    // IPv4 is below ::ffff:0:0/96; IPv6 blocks such as ::/0 do not contain it.
    let v4_root = (bits(Addr::from_v4_word(0)), Addr::V4_PREFIX_BITS);
    marks.entry(v4_root).or_default();
    let mut open: Vec<Open> = Vec::new();
    let mut networks = Vec::new();
    for (at, mark) in marks {
        while open.pop_if(|outer| mask(at.0, outer.at.1) != outer.at.0).is_some() {}
        let around = open.last();
        let inherited = around.filter(|_| at != v4_root).map(|around| around.blocks.clone());
        let mut blocks = inherited.unwrap_or_default();
        blocks.extend(mark.gains);
        blocks.retain(|block| !mark.loses.contains(block));
        let of_blocks = blocks.iter().filter_map(|block| sets_of.get(*block as usize));
        let mut sets: Vec<u32> = of_blocks.copied().flatten().copied().collect();
        sets.sort_unstable();
        sets.dedup();
        if around.map(|around| around.sets.as_slice()).unwrap_or_default() != sets.as_slice() {
            let prefix = (at.1, Addr::from_octets(at.0.to_be_bytes()));
            networks.push(Network { prefix, sets: sets.clone() });
        }
        open.push(Open { at, blocks, sets });
    }
    networks
}

fn bits(addr: Addr) -> u128 {
    u128::from_be_bytes(addr.octets())
}

/// A sort key: a network comes before everything inside it.
fn ordered(network: &IpNetwork) -> (u128, u32) {
    let (length, addr) = prefix_of(network);
    (bits(addr), length)
}

fn mask(bits: u128, length: u32) -> u128 {
    match length {
        0 => 0,
        1..=127 => bits & (u128::MAX << (128 - length)),
        _ => bits,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Small networks at the start, the end and the middle of both families.
    fn network() -> impl Strategy<Value = IpNetwork> {
        let v4 = (any::<bool>(), 0u32..16, 28u8..=32).prop_map(|(high, n, length)| {
            let base = if high { 0xffff_fff0 } else { 0x0a00_0000 };
            (IpAddr::from((base | n).to_be_bytes()), length)
        });
        let v6 = (any::<bool>(), 0u128..16, 124u8..=128).prop_map(|(high, n, length)| {
            let base = if high { u128::MAX << 4 } else { 0xfd00 << 112 };
            (IpAddr::from((base | n).to_be_bytes()), length)
        });
        let whole = any::<bool>().prop_map(|v4| (if v4 { [0; 4].into() } else { [0; 16].into() }, 0));
        let any_network = prop_oneof![4 => v4, 4 => v6, 1 => whole];
        any_network.prop_map(|(ip, length)| {
            let network = IpNetwork::new(ip, length).unwrap();
            IpNetwork::new(network.network(), length).unwrap()
        })
    }

    fn contains(block: &IpBlock, ip: IpAddr) -> bool {
        block.cidr.contains(ip) && !block.except.iter().any(|except| except.contains(ip))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn every_address_has_the_sets_of_the_blocks_that_contain_it(
            blocks in vec((network(), vec(network(), 0..3), vec(0u32..4, 1..3)), 0..8)
        ) {
            let blocks: Vec<(IpBlock, Vec<u32>)> = blocks.into_iter().map(|(cidr, except, sets)| {
                let is_inside = |inner: &IpNetwork| {
                    inner.is_ipv4() == cidr.is_ipv4() && inner.prefix() >= cidr.prefix() && cidr.contains(inner.network())
                };
                (IpBlock { cidr, except: except.into_iter().filter(is_inside).collect() }, sets)
            }).collect();
            let mut by_block: BTreeMap<&IpBlock, Vec<u32>> = BTreeMap::new();
            blocks.iter().for_each(|(block, sets)| by_block.entry(block).or_default().extend(sets));
            let networks = Networks::new(&by_block);
            let v4 = [0x0a00_0000u32, 0xffff_fff0].into_iter().flat_map(|base| (0..16).map(move |n| IpAddr::from((base | n).to_be_bytes())));
            let v6 = [0xfd00u128 << 112, u128::MAX << 4].into_iter().flat_map(|base| (0..16).map(move |n| IpAddr::from((base | n).to_be_bytes())));
            let others = ["0.0.0.0", "9.9.9.9", "::", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
            let (mut walk, mut walk_around) = (networks.walk(), networks.walk_around());
            for ip in v4.chain(v6).chain(others) {
                let containing = by_block.iter().filter(|(block, _)| contains(block, ip));
                let mut expected: Vec<u32> = containing.flat_map(|(_, sets)| sets).copied().collect();
                expected.sort_unstable();
                expected.dedup();
                let addr = Addr::from(ip);
                prop_assert_eq!(networks.sets(networks.at(addr)), expected.as_slice(), "{}", ip);
                prop_assert_eq!(walk.at(addr), networks.at(addr), "{}", ip);
                prop_assert_eq!(walk_around.at(addr), networks.around(addr), "{}", ip);
                let around = networks.sets(networks.around(addr));
                match networks.single(addr) {
                    Some(sets) => prop_assert!(sets == expected.as_slice() && around != sets),
                    None => prop_assert_eq!(around, expected.as_slice()),
                }
            }
        }
    }
}

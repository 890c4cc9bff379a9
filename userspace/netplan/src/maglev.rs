//! Maglev: backends to a lookup table in which each has an equal share and keeps most of it when others come and go
//! (Eisenbud et al., NSDI 2016, 3.4).
//!
//! In: backends. Out: the pages of a table that holds for each slot the index of its backend.

use skep_abi::logic::hash::socket_addr_hash;
use skep_abi::{Backend, MAGLEV_SLOTS, MaglevPage, maglev_size};

/// Marks an empty slot; no backend has this index, since larger sets have no table.
const EMPTY: u16 = u16::MAX;

/// The pages of the set's table; empty if it needs no table.
pub fn pages(backends: &[Backend]) -> Vec<MaglevPage> {
    let size = u32::try_from(backends.len()).map_or(0, maglev_size);
    let table = table(backends, size);
    let page = |slots: &[u16]| {
        let mut page = MaglevPage::default();
        page.slots.iter_mut().zip(slots).for_each(|(to, from)| *to = *from);
        page
    };
    table.chunks(MAGLEV_SLOTS as usize).map(page).collect()
}

/// The number of [`pages`], without building them.
pub fn page_count(backends: &[Backend]) -> usize {
    u32::try_from(backends.len()).map_or(0, maglev_size).div_ceil(MAGLEV_SLOTS) as usize
}

/// `size` is from [`maglev_size`]. Each slot holds an index into `backends`; without backends there are no slots. The
/// order of `backends` changes the indices, and not which backend a slot has.
fn table(backends: &[Backend], size: u32) -> Vec<u16> {
    if backends.is_empty() || size < 2 {
        return Vec::new();
    }
    // Backends take turns in the order of their names, so that the caller's order does not matter.
    let permutations = backends.iter().map(|backend| Permutation::new(backend, size));
    let mut turns: Vec<(Permutation, u16)> = permutations.zip(0..EMPTY).collect();
    turns.sort_unstable_by_key(|(permutation, index)| (permutation.name, *index));
    let mut slots = vec![EMPTY; size as usize];
    let mut empty = size;
    loop {
        for (permutation, index) in &mut turns {
            if empty == 0 {
                return slots;
            }
            // The size is prime and `skip` is below it, so the permutation visits every slot.
            while let Some(slot) = slots.get_mut(permutation.next(size) as usize) {
                if *slot == EMPTY {
                    *slot = *index;
                    empty -= 1;
                    break;
                }
            }
        }
    }
}

/// A backend's preference order of all slots: `(offset + j * skip) mod size` for j = 0, 1, ...
struct Permutation {
    name: u64,
    /// The next slot.
    offset: u32,
    skip: u32,
}

impl Permutation {
    fn new(backend: &Backend, size: u32) -> Self {
        // The salts are outside the range of protocol numbers, which salt the hashes of flows.
        let hash = |salt: u32| socket_addr_hash(&backend.addr, backend.port, 0x1_0000 + salt);
        let offset = (hash(0) % u64::from(size)) as u32;
        let skip = (hash(1) % u64::from(size - 1)) as u32 + 1;
        Permutation { name: hash(2), offset, skip }
    }

    fn next(&mut self, size: u32) -> u32 {
        let slot = self.offset;
        // No overflow: both are below `size`, which is far below 2^31.
        self.offset = slot + self.skip;
        if self.offset >= size {
            self.offset -= size;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use skep_abi::Be16;

    use super::*;

    fn backends(count: u32) -> Vec<Backend> {
        let addr = |n: u32| IpAddr::from((0x0a00_0000u32 + n).to_be_bytes()).into();
        (0..count).map(|n| Backend { addr: addr(n), port: Be16::new(8080), reserved: 0 }).collect()
    }

    #[test]
    fn no_backend_has_no_slot() {
        assert!(table(&[], size(0)).is_empty());
    }

    fn size(backends: usize) -> u32 {
        maglev_size(backends as u32)
    }

    #[test]
    fn tables_are_the_same_in_every_version() {
        let slots: Vec<u16> = pages(&backends(3)).iter().flat_map(|page| page.slots).take(16).collect();
        assert_eq!(slots, [2, 1, 0, 0, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1, 0, 0]);
    }

    #[test]
    fn pages_hold_the_whole_table() {
        for count in [0, 1, 2, 3, 20, 65_536] {
            let backends = backends(count);
            let slots: Vec<u16> = pages(&backends).iter().flat_map(|page| page.slots).collect();
            let table = table(&backends, size(backends.len()));
            assert_eq!(slots.get(..table.len()), Some(&*table));
            assert_eq!(page_count(&backends), pages(&backends).len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn shares_differ_by_at_most_one(count in 2u32..60) {
            let backends = backends(count);
            let size = size(backends.len());
            let mut shares = vec![0u32; backends.len()];
            table(&backends, size).iter().for_each(|index| shares[*index as usize] += 1);
            let (smallest, largest) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert_eq!(shares.iter().sum::<u32>(), size);
            prop_assert!(largest - smallest <= 1, "{} to {}", smallest, largest);
        }

        #[test]
        fn order_of_backends_does_not_matter(count in 2u32..40, by in 0usize..40) {
            let forwards = backends(count);
            let mut rotated = forwards.clone();
            rotated.rotate_left(by % forwards.len());
            let size = size(forwards.len());
            let named = |of: &[Backend]| -> Vec<Backend> {
                table(of, size).iter().map(|index| of[*index as usize]).collect()
            };
            prop_assert_eq!(named(&forwards), named(&rotated));
        }

        #[test]
        fn lost_backend_moves_few_slots_of_the_others(count in 3u32..60, lost in 0usize..60) {
            let before = backends(count);
            let mut after = before.clone();
            let removed = after.remove(lost % before.len());
            let size = size(before.len());
            let (old, new) = (table(&before, size), table(&after, size));
            let moved = old.iter().zip(&new).filter(|(o, n)| {
                let (o, n) = (before[**o as usize], after[**n as usize]);
                o != removed && o != n
            });
            // The paper measures about as many extra moves as the lost backend had slots.
            let bound = (size as usize / before.len()).max(size as usize / 25) * 2;
            let moved = moved.count();
            prop_assert!(moved <= bound, "{} of {} moved, {} backends", moved, size, count);
        }
    }
}

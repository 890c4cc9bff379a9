//! Maglev: backends to a lookup table in which each has an equal share and keeps it when others come and go
//! (Eisenbud et al., NSDI 2016, 3.4).
//!
//! In: names of backends and a table size. Out: for each slot the place of its backend.

use std::hash::{DefaultHasher, Hash, Hasher};

use skep_abi::Backend;

/// Slots a backend: shares then differ by at most one per cent, and so does the disruption.
const SLOTS_PER_BACKEND: usize = 100;
/// Primes, each about twice the one before.
const SIZES: [u32; 12] =
    [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287];

/// The size for that many backends: the first prime that gives each its slots; the largest for even more. Backends
/// that come and go within one step leave it as it is.
pub fn size(backends: usize) -> u32 {
    let wanted = backends.saturating_mul(SLOTS_PER_BACKEND);
    let last = SIZES[SIZES.len() - 1];
    SIZES.iter().copied().find(|size| *size as usize >= wanted).unwrap_or(last)
}

/// `size` is a prime of [`size`]. Each slot holds a place in `backends`; no backends, no slots. The order of the
/// backends changes nothing but the places.
pub fn table(backends: &[Backend], size: u32) -> Vec<u32> {
    if backends.is_empty() || size < 2 {
        return Vec::new();
    }
    // Turns are taken in the order of names, so that the caller's order does not matter.
    let mut turns: Vec<(Turn, u32)> = backends.iter().map(|b| Turn::new(b, size)).zip(0..).collect();
    turns.sort_unstable_by_key(|(turn, place)| (turn.name, *place));
    let mut slots: Vec<Option<u32>> = vec![None; size as usize];
    let mut empty = size;
    loop {
        for (turn, place) in &mut turns {
            if empty == 0 {
                return slots.into_iter().flatten().collect();
            }
            // A prime size and a step below it visit every slot, so an empty one is met.
            while let Some(slot) = slots.get_mut(turn.next(size) as usize) {
                if slot.is_none() {
                    *slot = Some(*place);
                    empty -= 1;
                    break;
                }
            }
        }
    }
}

/// A backend's own order of all slots.
struct Turn {
    name: u64,
    at: u32,
    step: u32,
}

impl Turn {
    fn new(backend: &Backend, size: u32) -> Self {
        let hash = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, backend.addr, backend.port).hash(&mut hasher);
            hasher.finish()
        };
        let (offset, skip, name) = (hash(0), hash(1), hash(2));
        let (at, step) = ((offset % u64::from(size)) as u32, (skip % u64::from(size - 1)) as u32 + 1);
        Turn { name, at, step }
    }

    fn next(&mut self, size: u32) -> u32 {
        let at = self.at;
        self.at = ((u64::from(at) + u64::from(self.step)) % u64::from(size)) as u32;
        at
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

    #[test]
    fn size_grows_in_steps_and_ends() {
        assert_eq!(size(1), 251);
        assert_eq!(size(3), 509);
        assert_eq!(size(1_000_000), 524_287);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn shares_differ_by_at_most_one(count in 1u32..60) {
            let backends = backends(count);
            let size = size(backends.len());
            let mut shares = vec![0u32; backends.len()];
            table(&backends, size).iter().for_each(|place| shares[*place as usize] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert_eq!(shares.iter().sum::<u32>(), size);
            prop_assert!(most - least <= 1, "{} to {}", least, most);
        }

        #[test]
        fn order_of_backends_does_not_matter(count in 1u32..40, turn in 0usize..40) {
            let forwards = backends(count);
            let mut turned = forwards.clone();
            turned.rotate_left(turn % forwards.len());
            let size = size(forwards.len());
            let named = |of: &[Backend]| -> Vec<Backend> {
                table(of, size).iter().map(|place| of[*place as usize]).collect()
            };
            prop_assert_eq!(named(&forwards), named(&turned));
        }

        #[test]
        fn lost_backend_moves_few_slots_of_the_others(count in 3u32..60, lost in 0usize..60) {
            let before = backends(count);
            let mut after = before.clone();
            let gone = after.remove(lost % before.len());
            let size = size(before.len());
            let (old, new) = (table(&before, size), table(&after, size));
            let moved = old.iter().zip(&new).filter(|(o, n)| {
                let (o, n) = (before[**o as usize], after[**n as usize]);
                o != gone && o != n
            });
            // The paper measures about as many extra moves as the lost backend had slots.
            let bound = (size as usize / before.len()).max(size as usize / 25) * 2;
            let moved = moved.count();
            prop_assert!(moved <= bound, "{} of {} moved, {} backends", moved, size, count);
        }
    }
}

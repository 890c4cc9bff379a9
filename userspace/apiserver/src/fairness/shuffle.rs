//! Shuffle sharding: each flow has a few of the queues, so that a flood fills only those. PURE.

/// A flow's queues: `size` different ones of `queues`, by the flow's hash.
pub(super) fn hand(mut hash: u64, queues: usize, size: usize) -> impl Iterator<Item = usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(size);
    for left in (1..=queues).rev().take(size) {
        // The digits of the hash in falling bases choose among the queues that are left.
        let mut card = (hash % left as u64) as usize;
        hash /= left as u64;
        let mut at = 0;
        while at < dealt.len() && dealt[at] <= card {
            card += 1;
            at += 1;
        }
        dealt.insert(at, card);
    }
    dealt.into_iter()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hand_has_different_queues(hash: u64, queues in 1usize..200, size in 1usize..20) {
            let mut hand: Vec<usize> = hand(hash, queues, size).collect();
            prop_assert_eq!(hand.len(), size.min(queues));
            prop_assert!(hand.iter().all(|queue| *queue < queues));
            hand.dedup();
            prop_assert_eq!(hand.len(), size.min(queues));
        }
    }

    #[test]
    fn every_queue_is_dealt_about_as_often() {
        let mut counts = [0; 16];
        for at in 0..10_000u64 {
            hand(at.wrapping_mul(0x9E37_79B9_7F4A_7C15), 16, 4).for_each(|queue| counts[queue] += 1);
        }
        assert!(counts.iter().all(|count| (2_000..3_000).contains(count)), "{counts:?}");
    }
}

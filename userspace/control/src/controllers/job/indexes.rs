//! Sets of completion indexes as Jobs write them: "0,2-5". Bounded by the number of intervals, never by that of indexes.

use std::fmt;

/// Disjoint intervals in ascending order; both ends belong to an interval, neighbours are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Reads a list of indexes below `completions`; ignores what is no interval.
    pub(super) fn parse(text: &str, completions: u32) -> Indexes {
        let interval = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            (first <= last && first < completions).then(|| (first, last.min(completions.saturating_sub(1))))
        };
        Indexes::of(text.split(',').filter_map(interval).collect())
    }

    /// Single indexes.
    pub(super) fn from_iter(indexes: impl IntoIterator<Item = u32>) -> Indexes {
        Indexes::of(indexes.into_iter().map(|index| (index, index)).collect())
    }

    fn of(mut intervals: Vec<(u32, u32)>) -> Indexes {
        intervals.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Indexes(merged)
    }

    #[must_use]
    pub(super) fn union(&self, other: &Indexes) -> Indexes {
        Indexes::of(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// The number of indexes that are in both sets.
    pub(super) fn common(&self, other: &Indexes) -> u64 {
        // |A ∩ B| = |A| + |B| - |A ∪ B|
        (self.total() + other.total()).saturating_sub(self.union(other).total())
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub(super) fn first_missing(&self, count: usize, completions: u32) -> Vec<u32> {
        let mut missing = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let room = count.saturating_sub(missing.len());
            missing.extend((next..first.min(completions)).take(room));
            next = last.saturating_add(1);
        }
        missing
    }
}

/// Two neighbours are listed, longer runs are intervals.
impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indexes_are_parsed_as_formatted() {
        let text = "0,2,3,5-7";
        let indexes = Indexes::parse(text, 10);
        assert_eq!(indexes.to_string(), text);
        assert_eq!(indexes.total(), 6);
        assert_eq!(Indexes::parse("x,1-y,9-2,,", 10), Indexes::default());
        assert_eq!(Indexes::parse("5-900", 7).to_string(), "5,6");
        assert_eq!(Indexes::parse("0-2147483646", 2_147_483_647).total(), 2_147_483_647);
    }

    proptest! {
        #[test]
        fn a_set_of_intervals_is_a_set(
            a in prop::collection::btree_set(0u32..40, 0..30),
            b in prop::collection::btree_set(0u32..40, 0..30),
            count in 0usize..50,
        ) {
            let (left, right) = (Indexes::from_iter(a.clone()), Indexes::from_iter(b.clone()));
            prop_assert_eq!(left.union(&right), Indexes::from_iter(&a | &b));
            prop_assert_eq!(left.common(&right), (&a & &b).len() as u64);
            prop_assert_eq!(left.total(), a.len() as u64);
            prop_assert_eq!(Indexes::parse(&left.to_string(), 40), left.clone());
            let all: BTreeSet<u32> = (0..40).collect();
            let missing: Vec<u32> = (&all - &a).into_iter().take(count).collect();
            prop_assert_eq!(left.first_missing(count, 40), missing);
            for index in 0..41 {
                prop_assert_eq!(left.contains(index), a.contains(&index));
            }
        }
    }
}

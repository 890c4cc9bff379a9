//! Maglev tables: `MAGLEV`, one table for every backend set that the outside reaches, by the hash of a flow.
//!
//! The table depends only on the set's backends, and a flow's hash only on the client's address and port
//! ([`crate::logic::hash`]): every node picks the same backend for the same flow. Only the first packet of a flow looks
//! here.

/// Entries of `MAGLEV`, a hash of [`MaglevKey`] to [`MaglevPage`]. Memory is allocated as pages come.
pub const MAGLEV_MAX: u32 = 131_072;

/// Slots of a page. With them an element of the map fills an allocation of 512 bytes.
pub const MAGLEV_SLOTS: u32 = 224;

/// Slots for each backend: shares and disruption then differ by at most one per cent.
const SLOTS_PER_BACKEND: u32 = 100;
/// The largest primes that fit into 1, 2, 4 ... pages.
const SIZES: [u32; 12] =
    [223, 443, 887, 1_789, 3_583, 7_159, 14_327, 28_669, 57_331, 114_679, 229_373, 458_747];

/// A page of a set's table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MaglevKey {
    /// As in [`crate::ServiceValue::set`].
    pub set: u32,
    /// The table's slot divided by [`MAGLEV_SLOTS`].
    pub page: u32,
}

/// [`MAGLEV_SLOTS`] slots of a table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MaglevPage {
    /// Slots of the backend set. Those after the table's end are 0 and never read.
    pub slots: [u16; MAGLEV_SLOTS as usize],
}

impl Default for MaglevPage {
    fn default() -> Self {
        MaglevPage { slots: [0; MAGLEV_SLOTS as usize] }
    }
}

/// Slots of the table of a set of `count` backends: the first prime that gives every backend 100 slots, or else the
/// largest prime. A count within one step keeps the size.
///
/// 0: there is no table. One backend needs none, and more backends than a slot can number are picked by
/// [`crate::logic::hash::scale`] alone.
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

crate::layout::plain!(MaglevKey: 8, MaglevPage: 448);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_grows_in_steps_and_ends() {
        let sizes = [0, 1, 2, 3, 4, 5, 4_587, 65_535, 65_536].map(maglev_size);
        assert_eq!(sizes, [0, 0, 223, 443, 443, 887, 458_747, 458_747, 0]);
        assert!(SIZES.iter().zip(0..).all(|(size, step)| *size <= MAGLEV_SLOTS << step));
    }
}

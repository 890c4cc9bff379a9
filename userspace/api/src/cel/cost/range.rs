//! Ranges of costs and sizes. Sums and products end at the largest number instead of overflowing.

/// A minimum and a maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    pub(in crate::cel) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    pub(in crate::cel) const fn fixed(value: u64) -> Range {
        Range { min: value, max: value }
    }

    pub(in crate::cel) fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(in crate::cel) fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Both ends times a factor, rounded up.
    pub(in crate::cel) fn scaled(self, factor: f64) -> Range {
        Range { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    pub(in crate::cel) fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// A number times a factor, rounded up; the cast saturates.
pub(super) fn scaled(value: u64, factor: f64) -> u64 {
    (value as f64 * factor).ceil() as u64
}

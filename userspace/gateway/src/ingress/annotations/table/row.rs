//! A row of the table.

use super::super::settings::Settings;
use super::super::values::Invalid;

/// A row of the table.
pub(in crate::ingress::annotations) struct Annotation {
    pub(in crate::ingress::annotations) name: &'static str,
    pub(in crate::ingress::annotations) value: &'static str,
    /// What it does; of others why not.
    pub(in crate::ingress::annotations) effect: &'static str,
    pub(in crate::ingress::annotations) reading: Reading,
}

type Read = fn(&mut Settings, &str) -> Result<(), Invalid>;

#[derive(Clone, Copy)]
pub(in crate::ingress::annotations) enum Reading {
    Set(Read),
    /// It keeps requests out: while its value is invalid, the rules of the Ingress answer 503.
    Guard(Read),
    /// What it asks for is so anyway, or tunes what is not there.
    Implied,
    Refused,
    /// It may keep requests out: the rules of the Ingress answer 503.
    RefusedGuard,
}

/// A part of the table, with its title.
pub(in crate::ingress::annotations) type Group = (&'static str, &'static [Annotation]);

impl Annotation {
    pub(super) const fn new(
        name: &'static str,
        value: &'static str,
        effect: &'static str,
        reading: Reading,
    ) -> Annotation {
        Annotation { name, value, effect, reading }
    }
}

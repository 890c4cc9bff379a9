//! Whose a volume is.

/// Whose a volume is: references to secrets differ in a PersistentVolume, and a template's image may be missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Pod,
    Template,
    PersistentVolume,
}

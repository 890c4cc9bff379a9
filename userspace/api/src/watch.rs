//! What an informer says about one kind, in order. PURE.

use crate::decode::Unreadable;

/// A step of a kind's list and watch. A list is `Init`, an `InitApply` or `InitKeep` for each object, `InitDone`; what it
/// did not contain is gone.
#[derive(Clone, Debug)]
pub enum WatchEvent<K> {
    /// A list begins.
    Init,
    /// The list contains the object.
    InitApply(K),
    /// The list contains an object that does not decode. Its last version that did stays in force.
    InitKeep(Unreadable),
    InitDone,
    /// The object was created or changed.
    Apply(K),
    Delete(K),
    /// An object was deleted whose last version does not decode.
    DeleteUnreadable(Unreadable),
}

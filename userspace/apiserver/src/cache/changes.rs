//! A change of an object, serialised once for all watchers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use skep_store::Revision;

use crate::object::Object;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

impl ChangeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    pub(crate) object: Arc<Object>,
    /// The object before the change. For a deletion, `object` is the same with the revision of the deletion.
    pub(crate) previous: Option<Arc<Object>>,
    /// The event's line for each kind: a selector may turn a modification into an addition or a deletion.
    serialised: [OnceLock<Bytes>; 3],
}

impl Change {
    pub(crate) fn new(kind: ChangeKind, object: Arc<Object>, previous: Option<Arc<Object>>) -> Change {
        Change { kind, object, previous, serialised: Default::default() }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.object.revision
    }

    /// One line of a watch response.
    pub(crate) fn line(&self, kind: ChangeKind) -> Bytes {
        self.serialised[kind as usize].get_or_init(|| line(kind.name(), &self.object.bytes)).clone()
    }
}

/// `{"type":...,"object":...}` and a newline.
pub(crate) fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    Bytes::from(out)
}

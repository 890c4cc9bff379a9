//! A change of an object, serialised once for all watchers.

use std::collections::VecDeque;
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

    /// About the bytes that it keeps in memory, with its lines.
    pub(crate) fn weight(&self) -> usize {
        let bytes = self.object.bytes.len();
        OVERHEAD_BYTES + if bytes > MAX_JOINED_BYTES { bytes } else { 2 * bytes }
    }

    /// Adds its line to a watch response. The line of a large object is not kept beside it: its parts are shared instead.
    pub(crate) fn push_line(&self, kind: ChangeKind, out: &mut VecDeque<Bytes>) {
        let object = &self.object.bytes;
        if object.len() <= MAX_JOINED_BYTES {
            let joined = self.serialised[kind as usize].get_or_init(|| line(kind.name(), object));
            out.push_back(joined.clone());
        } else {
            push_line(kind.name(), object.clone(), out);
        }
    }
}

/// Larger objects are sent from where they are.
const MAX_JOINED_BYTES: usize = 16 << 10;
/// Of a change without its object's bytes: keys, labels, the lines' heads.
const OVERHEAD_BYTES: usize = 512;

/// Adds a line in pieces, without a copy of a large object.
pub(crate) fn push_line(kind: &str, object: Bytes, out: &mut VecDeque<Bytes>) {
    if object.len() <= MAX_JOINED_BYTES {
        out.push_back(line(kind, &object));
        return;
    }
    out.push_back(Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":")));
    out.push_back(object);
    out.push_back(Bytes::from_static(b"}\n"));
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

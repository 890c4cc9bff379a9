//! The values that every store takes and gives: revisions, entries and events.

use std::sync::Arc;

use bytes::Bytes;

/// A global, ever-growing number; every successful write takes the next one. 0 is before the first write.
pub type Revision = u64;

/// A key with its value, and the revisions that created it and last wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    pub created: Revision,
    pub modified: Revision,
}

/// One page of a range, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub entries: Vec<Entry>,
    /// The revision at which the range was read.
    pub revision: Revision,
    /// Whether more entries follow the page.
    pub more: bool,
}

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    /// The entry's `modified`.
    Revision(Revision),
    Any,
}

/// A committed write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put { entry: Entry, previous: Option<Entry> },
    Delete { previous: Entry, revision: Revision },
}

impl Event {
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { entry, .. } => entry.modified,
            Event::Delete { revision, .. } => *revision,
        }
    }

    pub fn key(&self) -> &Arc<str> {
        match self {
            Event::Put { entry, .. } => &entry.key,
            Event::Delete { previous, .. } => &previous.key,
        }
    }
}

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

/// The beginning of a value that stands for one that could not be read. It is in no JSON text.
const UNREADABLE: &[u8] = b"\0skep:unreadable:";

impl Entry {
    /// Why the stored value could not be opened; `None` for every entry that has its value. Such an entry can be overwritten
    /// and deleted. Nothing may serve or decode its value.
    pub fn unreadable(&self) -> Option<&str> {
        let reason = self.value.strip_prefix(UNREADABLE)?;
        Some(str::from_utf8(reason).unwrap_or("unknown reason"))
    }

    /// The value of an unreadable entry.
    pub(crate) fn unreadable_value(reason: &str) -> Bytes {
        Bytes::from([UNREADABLE, reason.as_bytes()].concat())
    }
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

//! The outcome of a write, from the entry that exists. PURE.

use std::sync::Arc;

use bytes::Bytes;

use crate::state::{Revisions, check};
use crate::{Entry, Event, Expect, Revision, StoreError};

/// The answer to a write.
pub(super) enum Outcome {
    Put(Entry),
    Deleted(Entry, Revision),
    Done,
    Refused(StoreError),
}

/// The event to write and the answer after it is durable; `Err`: the answer, with nothing to write.
pub(super) type Decision = Result<(Event, Outcome), Outcome>;

/// `previous` is the entry that exists, `revision` the next one.
pub(super) fn put(
    previous: Option<Entry>,
    key: &Arc<str>,
    value: &Bytes,
    expect: Expect,
    revision: Revision,
) -> Decision {
    check(expect, previous.as_ref()).map_err(Outcome::Refused)?;
    let created = previous.as_ref().map_or(revision, |previous| previous.created);
    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision };
    Ok((Event::Put { entry: entry.clone(), previous }, Outcome::Put(entry)))
}

pub(super) fn delete(previous: Option<Entry>, expect: Expect, revision: Revision) -> Decision {
    let Some(previous) = previous else { return Err(Outcome::Refused(StoreError::NotFound)) };
    check(expect, Some(&previous)).map_err(Outcome::Refused)?;
    Ok((Event::Delete { previous: previous.clone(), revision }, Outcome::Deleted(previous, revision)))
}

/// Raises `revisions.compacted`.
pub(super) fn compact(revisions: &mut Revisions, before: Revision) -> Outcome {
    if before > revisions.current {
        let current = revisions.current;
        return Outcome::Refused(StoreError::FutureRevision { wanted: before, current });
    }
    revisions.compacted = revisions.compacted.max(before);
    Outcome::Done
}

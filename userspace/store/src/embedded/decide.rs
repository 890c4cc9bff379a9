//! What a write comes to over what is there. PURE.

use std::sync::Arc;

use bytes::Bytes;

use crate::state::{Revisions, check};
use crate::{Entry, Event, Expect, Revision, StoreError};

/// What whoever asked for a write is told.
pub(super) enum Outcome {
    Put(Entry),
    Deleted(Entry, Revision),
    Done,
    Refused(StoreError),
}

/// `Err`: nothing is to be written.
pub(super) type Decision = Result<(Event, Outcome), Outcome>;

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

pub(super) fn forget(revisions: &mut Revisions, before: Revision) -> Outcome {
    if before > revisions.current {
        let current = revisions.current;
        return Outcome::Refused(StoreError::FutureRevision { wanted: before, current });
    }
    revisions.compacted = revisions.compacted.max(before);
    Outcome::Done
}

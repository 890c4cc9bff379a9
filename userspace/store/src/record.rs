//! The encoding of entries and events on disk: fixed header, bytes, checksum.
//!
//! In and out: values and bytes. A record with a wrong checksum is `Err(Corrupt)`.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Event, Result, Revision, StoreError};

const CHECKSUM_BYTES: usize = 4;

/// An entry's value in the table of objects; its key is the table's key.
pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + entry.value.len() + CHECKSUM_BYTES);
    out.extend_from_slice(&entry.created.to_be_bytes());
    out.extend_from_slice(&entry.modified.to_be_bytes());
    out.extend_from_slice(&entry.value);
    append_checksum(out, entry.key.as_bytes())
}

pub(crate) fn decode_entry(key: &str, bytes: &[u8]) -> Result<Entry> {
    let body = strip_checksum(bytes, key.as_bytes()).ok_or_else(|| damaged(key))?;
    let mut fields = Fields(body);
    let (created, modified) = (fields.u64(), fields.u64());
    match (created, modified) {
        (Some(created), Some(modified)) => {
            Ok(Entry { key: key.into(), value: Bytes::copy_from_slice(fields.0), created, modified })
        }
        _ => Err(damaged(key)),
    }
}

const PUT: u8 = 1;
const PUT_OVER: u8 = 2;
const DELETE: u8 = 3;
/// Set in the kind of an append's first event: every append before it was synced.
const FIRST: u8 = 0x80;

/// An event in the log, whose record has the revision in its header. An append is
/// one or more events with one sync.
pub(crate) fn encode_event(event: &Event, first_of_append: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let (kind, first, second) = match event {
        Event::Put { entry, previous: None } => (PUT, entry, None),
        Event::Put { entry, previous: Some(previous) } => (PUT_OVER, entry, Some(previous)),
        Event::Delete { previous, .. } => (DELETE, previous, None),
    };
    out.push(if first_of_append { kind | FIRST } else { kind });
    put_bytes(&mut out, event.key().as_bytes());
    for entry in [Some(first), second].into_iter().flatten() {
        out.extend_from_slice(&entry.created.to_be_bytes());
        out.extend_from_slice(&entry.modified.to_be_bytes());
        put_bytes(&mut out, &entry.value);
    }
    append_checksum(out, &event.revision().to_be_bytes())
}

/// Whether an encoded event is intact and the first of an append.
pub(crate) fn begins_append(revision: Revision, bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|kind| kind & FIRST != 0) && decode_event(revision, bytes).is_ok()
}

pub(crate) fn decode_event(revision: Revision, bytes: &[u8]) -> Result<Event> {
    checked(revision, bytes)
        .and_then(|body| read_event(revision, body))
        .ok_or_else(|| damaged_event(revision))
}

/// The event if its key starts with `prefix`; other events are not copied.
pub(crate) fn decode_matching(revision: Revision, bytes: &[u8], prefix: &str) -> Result<Option<Event>> {
    let body = checked(revision, bytes).ok_or_else(|| damaged_event(revision))?;
    match Fields(body.get(1..).unwrap_or_default()).bytes() {
        Some(key) if !key.starts_with(prefix.as_bytes()) => Ok(None),
        _ => read_event(revision, body).map(Some).ok_or_else(|| damaged_event(revision)),
    }
}

fn checked(revision: Revision, bytes: &[u8]) -> Option<&[u8]> {
    strip_checksum(bytes, &revision.to_be_bytes())
}

fn damaged_event(revision: Revision) -> StoreError {
    damaged(&format!("history at revision {revision}"))
}

fn read_event(revision: Revision, body: &[u8]) -> Option<Event> {
    let mut fields = Fields(body);
    let kind = fields.take(1)?[0];
    let key: Arc<str> = std::str::from_utf8(fields.bytes()?).ok()?.into();
    let mut entry = || {
        let (created, modified) = (fields.u64()?, fields.u64()?);
        Some(Entry { key: key.clone(), value: Bytes::copy_from_slice(fields.bytes()?), created, modified })
    };
    Some(match kind & !FIRST {
        PUT => Event::Put { entry: entry()?, previous: None },
        PUT_OVER => Event::Put { entry: entry()?, previous: Some(entry()?) },
        DELETE => Event::Delete { previous: entry()?, revision },
        _ => return None,
    })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends the checksum of the record and of its location, so that a misplaced record has a wrong one.
fn append_checksum(mut out: Vec<u8>, location: &[u8]) -> Vec<u8> {
    let sum = checksum(&out, location);
    out.extend_from_slice(&sum);
    out
}

/// The record without its checksum; `None` if that is wrong.
fn strip_checksum<'a>(bytes: &'a [u8], location: &[u8]) -> Option<&'a [u8]> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    (checksum(body, location) == sum).then_some(body)
}

fn checksum(body: &[u8], location: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(location);
    hasher.update(body);
    hasher.finalize().to_be_bytes()
}

fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the record of {what} does not match its checksum"))
}

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.u64()?).ok()?;
        self.take(n)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(key: String, value: Vec<u8>, created: u64, modified: u64) -> Entry {
        Entry { key: key.into(), value: value.into(), created, modified }
    }

    proptest! {
        #[test]
        fn decoding_reverses_encoding(key in ".{0,20}", value: Vec<u8>, old: Vec<u8>, created: u64, modified: u64) {
            let new = entry(key.clone(), value, created, modified);
            prop_assert_eq!(&decode_entry(&key, &encode_entry(&new)).unwrap(), &new);
            let previous = entry(key, old, created, 1);
            for event in [
                Event::Put { entry: new.clone(), previous: None },
                Event::Put { entry: new, previous: Some(previous.clone()) },
                Event::Delete { previous, revision: modified },
            ] {
                for first in [false, true] {
                    let encoded = encode_event(&event, first);
                    prop_assert_eq!(&decode_event(event.revision(), &encoded).unwrap(), &event);
                    prop_assert_eq!(begins_append(event.revision(), &encoded), first);
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_found(value: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let new = entry("k".into(), value, 1, 2);
            let mut bytes = encode_entry(&new);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode_entry("k", &bytes).is_err());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>, revision: u64) {
            let _ = decode_event(revision, &bytes);
            let _ = decode_entry("k", &bytes);
        }
    }
}

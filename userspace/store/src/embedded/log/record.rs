//! Records of the log: length and revision, a checksum of both, and the event with its own checksum.
//!
//! In: events; bytes of a segment. Out: bytes to append; records, or why a record cannot be read.
//!
//! An append is one or more records with one sync. It begins with a marked record and is padded with zeros to whole sectors,
//! so that no append writes a sector that holds acknowledged records. The mark says that all before it was synced.

use crate::record::{begins_append, decode_event, encode_event};
use crate::{Event, Revision};

/// Length and revision, big endian, and their checksum.
pub(super) const HEADER_BYTES: usize = 4 + 8 + 4;
/// The unit in which a disk writes: a torn write leaves whole sectors unchanged.
pub(super) const SECTOR_BYTES: usize = 512;
/// No record has this many zeros up to the end of a sector: they mark a sector that was never written.
const MIN_UNWRITTEN_BYTES: usize = 16;

/// Writes the records of one append.
pub(super) fn write_append(out: &mut Vec<u8>, events: &[Event]) {
    events.iter().enumerate().for_each(|(at, event)| write(out, event, at == 0));
    out.resize(out.len().next_multiple_of(SECTOR_BYTES), 0);
}

fn write(out: &mut Vec<u8>, event: &Event, first: bool) {
    let body = encode_event(event, first);
    let at = out.len();
    // Requests are limited far below the range of this type.
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&event.revision().to_be_bytes());
    let sum = crc32fast::hash(&out[at..]);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&body);
}

/// Reads the records of a segment in order.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    /// Where the next record begins.
    at: usize,
}

/// A record whose header is intact; its event is not decoded yet.
pub(super) struct Record<'a> {
    pub(super) revision: Revision,
    pub(super) body: &'a [u8],
    at: usize,
}

/// Why a record cannot be read, and the byte at which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRecord {
    /// A part of it was never written.
    #[error("a part of the record at byte {at} is missing")]
    Torn { at: usize },
    /// The bytes were altered.
    #[error("the checksum of the record at byte {at} is wrong")]
    Damaged { at: usize },
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Records<'a> {
        Records { bytes, at: 0 }
    }

    /// The next record; `None` at a clean end.
    pub(super) fn next(&mut self) -> Result<Option<Record<'a>>, BadRecord> {
        if is_zero(&self.bytes[self.at..]) {
            return Ok(None);
        }
        let record = match (self.record(self.at), self.after_padding()) {
            (Err(_), Some(next)) => self.record(next)?,
            (record, _) => record?,
        };
        self.at = record.end();
        Ok(Some(record))
    }

    pub(super) fn event(&self, record: &Record) -> Result<Event, BadRecord> {
        decode_event(record.revision, record.body).map_err(|_| self.torn_or_damaged(record.at, record.end()))
    }

    /// Byte and revision of an append from here on, which is the bad record or the end of it: the first one with a revision
    /// after `last`. No value of a write can look like one: a header has zero bytes, which JSON and sealed values do not contrive.
    pub(super) fn later_append(&self, last: Revision) -> Option<(usize, Revision)> {
        let begin = self.at.next_multiple_of(SECTOR_BYTES);
        (begin..self.bytes.len()).step_by(SECTOR_BYTES).find_map(|at| {
            let record = self.record(at).ok().filter(|record| record.revision > last)?;
            begins_append(record.revision, record.body).then_some((at, record.revision))
        })
    }

    /// The start of the next sector, if there are only zeros up to it.
    fn after_padding(&self) -> Option<usize> {
        let next = self.at.next_multiple_of(SECTOR_BYTES);
        let padding = self.bytes.get(self.at..next)?;
        (!padding.is_empty() && is_zero(padding)).then_some(next)
    }

    fn record(&self, at: usize) -> Result<Record<'a>, BadRecord> {
        let header = self.bytes.get(at..at + HEADER_BYTES).ok_or(BadRecord::Torn { at })?;
        let number = |from: usize, to: usize| {
            header[from..to].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte))
        };
        if u64::from(crc32fast::hash(&header[..12])) != number(12, 16) {
            return Err(self.torn_or_damaged(at, at + HEADER_BYTES));
        }
        let (length, revision) = (number(0, 4) as usize, number(4, 12));
        let body = self.bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + length);
        Ok(Record { revision, body: body.ok_or(BadRecord::Torn { at })?, at })
    }

    /// A record with a wrong checksum is torn if one of its sectors was never written (etcd's log has the same rule). The
    /// sector is looked at to its end: the record may have only its last bytes in it.
    fn torn_or_damaged(&self, at: usize, end: usize) -> BadRecord {
        let mut from = at;
        while from < end.min(self.bytes.len()) {
            let next = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let piece = &self.bytes[from..next.min(self.bytes.len())];
            if piece.len() >= MIN_UNWRITTEN_BYTES && is_zero(piece) {
                return BadRecord::Torn { at };
            }
            from = next;
        }
        BadRecord::Damaged { at }
    }
}

impl Record<'_> {
    fn end(&self) -> usize {
        self.at + HEADER_BYTES + self.body.len()
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

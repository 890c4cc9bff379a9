//! A record of the log: its length and revision, a checksum of both, and the event with its own checksum.
//!
//! In: events; bytes of a segment. Out: bytes to append; records, or why a record cannot be read.

use crate::record::{decode_event, encode_event};
use crate::{Event, Revision};

/// Length and revision, big endian, and their checksum.
pub(super) const HEADER_BYTES: usize = 4 + 8 + 4;
/// The unit in which a disk writes: a torn write leaves whole sectors unchanged.
pub(super) const SECTOR_BYTES: usize = 512;
/// No record has this many zeros at the end of a sector: they mark a sector that was never written.
const MIN_UNWRITTEN_BYTES: usize = 16;

pub(super) fn write(out: &mut Vec<u8>, event: &Event) {
    let body = encode_event(event);
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

/// Why a record cannot be read.
pub(super) enum BadRecord {
    /// A crash interrupted the write.
    Torn,
    /// The bytes were altered; with the reason.
    Damaged(String),
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Records<'a> {
        Records { bytes, at: 0 }
    }

    /// The next record; `None` at a clean end.
    pub(super) fn next(&mut self) -> Result<Option<Record<'a>>, BadRecord> {
        let at = self.at;
        if self.bytes[at..].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = self.slice(at, HEADER_BYTES)?;
        let number = |from: usize, to: usize| {
            header[from..to].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte))
        };
        if u64::from(crc32fast::hash(&header[..12])) != number(12, 16) {
            return Err(self.torn_or_damaged(at, HEADER_BYTES));
        }
        let (length, revision) = (number(0, 4) as usize, number(4, 12));
        let body = self.slice(at + HEADER_BYTES, length)?;
        self.at += HEADER_BYTES + length;
        Ok(Some(Record { revision, body, at }))
    }

    pub(super) fn event(&self, record: &Record) -> Result<Event, BadRecord> {
        decode_event(record.revision, record.body)
            .map_err(|_| self.torn_or_damaged(record.at, HEADER_BYTES + record.body.len()))
    }

    fn slice(&self, from: usize, length: usize) -> Result<&'a [u8], BadRecord> {
        self.bytes.get(from..from + length).ok_or(BadRecord::Torn)
    }

    /// A record with a wrong checksum is torn if a part of it was never written (etcd's log has the same rule).
    fn torn_or_damaged(&self, from: usize, length: usize) -> BadRecord {
        let (mut at, end) = (from, (from + length).min(self.bytes.len()));
        while at < end {
            let next = end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
            if next - at >= MIN_UNWRITTEN_BYTES && self.bytes[at..next].iter().all(|byte| *byte == 0) {
                return BadRecord::Torn;
            }
            at = next;
        }
        BadRecord::Damaged(format!("the checksum of the record at byte {from} is wrong"))
    }
}

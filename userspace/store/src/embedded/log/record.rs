//! A record of the log: its length and revision, a checksum of both, and the event with its own checksum.

use crate::record::{decode_event, encode_event};
use crate::{Event, Revision};

/// Length and revision, big endian, and their checksum.
pub(super) const HEADER: usize = 4 + 8 + 4;
/// In which a disk writes: a torn write leaves whole sectors as they were.
pub(super) const SECTOR: usize = 512;
/// Zeros in a row at a sector's end that no record has: what was never written.
const UNWRITTEN: usize = 16;

pub(super) fn write(out: &mut Vec<u8>, event: &Event) {
    let body = encode_event(event);
    let at = out.len();
    // An event is bounded by what a request may hold, far below this type's end.
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&event.revision().to_be_bytes());
    let sum = crc32fast::hash(&out[at..]);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&body);
}

/// Reads a segment's records one after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Where the next record begins.
    at: usize,
}

/// What a checked header tells; the event is not decoded yet.
pub(super) struct Record<'a> {
    pub(super) revision: Revision,
    pub(super) body: &'a [u8],
    at: usize,
}

/// Why there is no record.
pub(super) enum End {
    Torn,
    /// With what is wrong.
    Damaged(String),
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// The next record; `None` at a clean end.
    pub(super) fn next(&mut self) -> Result<Option<Record<'a>>, End> {
        let at = self.at;
        if self.bytes[at..].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = self.whole(at, HEADER)?;
        let number = |from: usize, to: usize| {
            header[from..to].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte))
        };
        if u64::from(crc32fast::hash(&header[..12])) != number(12, 16) {
            return Err(self.torn_or_damaged(at, HEADER));
        }
        let (length, revision) = (number(0, 4) as usize, number(4, 12));
        let body = self.whole(at + HEADER, length)?;
        self.at += HEADER + length;
        Ok(Some(Record { revision, body, at }))
    }

    pub(super) fn event(&self, record: &Record) -> Result<Event, End> {
        decode_event(record.revision, record.body)
            .map_err(|_| self.torn_or_damaged(record.at, HEADER + record.body.len()))
    }

    fn whole(&self, from: usize, length: usize) -> Result<&'a [u8], End> {
        self.bytes.get(from..from + length).ok_or(End::Torn)
    }

    /// A record that does not check is torn if a part of it was never written, as etcd tells it too.
    fn torn_or_damaged(&self, from: usize, length: usize) -> End {
        let (mut at, end) = (from, (from + length).min(self.bytes.len()));
        while at < end {
            let next = end.min((at / SECTOR + 1) * SECTOR);
            if next - at >= UNWRITTEN && self.bytes[at..next].iter().all(|byte| *byte == 0) {
                return End::Torn;
            }
            at = next;
        }
        End::Damaged(format!("the record at byte {from} does not check"))
    }
}

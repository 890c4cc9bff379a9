//! An answer as a value, and as the bytes of a packet.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};

use crate::question::Query;

/// What is answered to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub code: ResponseCode,
    /// From the cluster's zone.
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Reply {
    pub fn of(code: ResponseCode) -> Self {
        Reply {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// Begins the addresses of a name with another one for each `seed`, so that clients which take the first spread.
    pub(crate) fn rotate(&mut self, seed: u32) {
        let is_address = |record: &Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
        let start = self.answers.iter().position(is_address).unwrap_or(self.answers.len());
        let Some(addresses) = self.answers.get_mut(start..) else { return };
        if addresses.len() > 1 && addresses.iter().all(is_address) {
            let by = seed as usize % addresses.len();
            addresses.rotate_left(by);
        }
    }

    /// Gives the records of one name to another.
    pub(crate) fn rename(&mut self, from: &Name, to: &Name) {
        for record in self.answers.iter_mut().filter(|record| record.name == *from) {
            record.name = to.clone();
        }
    }

    /// The packet, of at most `limit` bytes. Additional records are left out first; if answers are, the packet says that it
    /// is truncated (RFC 2181, 9).
    pub fn encode(self, query: &Query, limit: usize) -> Vec<u8> {
        let mut message = query.start_of_reply();
        message.metadata.response_code = self.code;
        message.metadata.authoritative = self.authoritative;
        message.answers = self.answers;
        message.authorities = self.authorities;
        message.additionals = self.additionals;
        fit(message, limit)
    }
}

/// Leaves out what does not fit.
fn fit(mut message: Message, limit: usize) -> Vec<u8> {
    loop {
        // Only what this program made is encoded: names and records are within their limits.
        let bytes = message.to_vec().unwrap_or_default();
        if bytes.len() <= limit {
            return bytes;
        }
        if !message.additionals.is_empty() {
            message.additionals.clear();
        } else if !message.authorities.is_empty() && message.answers.is_empty() {
            message.authorities.clear();
            message.metadata.truncation = true;
        } else if !message.answers.is_empty() {
            message.authorities.clear();
            // Each round leaves at least one out, and about as many as are too many.
            let keep = message.answers.len() * limit / bytes.len();
            message.answers.truncate(keep.min(message.answers.len() - 1));
            message.metadata.truncation = true;
        } else {
            return bytes;
        }
    }
}

//! PURE. What of an upstream's packet is believed.
//!
//! In: the packet, and what was asked. Out: a [`Reply`] with records that belong to the question, or a reason. The sender's
//! address and port were checked by the kernel: the socket is connected.

use std::collections::HashSet;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::reply::Reply;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// In lower case.
    pub name: Name,
    pub kind: RecordType,
    /// The client wants DNSSEC's records.
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
}

/// What a packet is.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Answer(Reply),
    /// The answer did not fit; TCP has all of it.
    Truncated,
    /// The server does not answer such questions, or cannot now. Another one may.
    Refused(ResponseCode),
    /// Not an answer to this question: it is ignored, and the answer may still come.
    Foreign,
}

/// Never panics, whatever the bytes are.
pub fn accept(packet: &[u8], id: u16, asked: &Asked) -> Verdict {
    let Ok(message) = Message::from_vec(packet) else { return Verdict::Foreign };
    let question = match message.queries.as_slice() {
        [question] => question,
        _ => return Verdict::Foreign,
    };
    if message.metadata.id != id
        || message.metadata.message_type != MessageType::Response
        || question.name != asked.name
        || question.query_type != asked.kind
        || question.query_class != DNSClass::IN
    {
        return Verdict::Foreign;
    }
    if message.metadata.truncation {
        return Verdict::Truncated;
    }
    match message.metadata.response_code {
        code @ (ResponseCode::NoError | ResponseCode::NXDomain) => {
            Verdict::Answer(believed(message, code, asked))
        }
        code => Verdict::Refused(code),
    }
}

/// Records of the chain of aliases that begins with the question, and the SOA of a negative answer.
fn believed(message: Message, code: ResponseCode, asked: &Asked) -> Reply {
    let mut chain: HashSet<Name> = HashSet::from([asked.name.clone()]);
    let mut answers: Vec<Record> = Vec::new();
    for mut record in message.answers {
        let owner = record.name.to_lowercase();
        let is_ancestor =
            record.record_type() == RecordType::DNAME && chain.iter().any(|name| owner.zone_of(name));
        if record.dns_class != DNSClass::IN || !chain.contains(&owner) && !is_ancestor {
            continue;
        }
        if let RData::CNAME(target) = &record.data {
            chain.insert(target.0.to_lowercase());
        }
        record.ttl = record.ttl.min(i32::MAX.unsigned_abs());
        answers.push(record);
    }
    let of_chain = |record: &Record| {
        let owner = record.name.to_lowercase();
        chain.iter().any(|name| owner.zone_of(name))
    };
    let wanted = |record: &Record| {
        record.record_type() == RecordType::SOA || asked.dnssec_ok && record.record_type() != RecordType::NS
    };
    let authorities = message.authorities.into_iter().filter(|r| wanted(r) && of_chain(r));
    Reply { code, authoritative: false, answers, authorities: authorities.collect(), additionals: Vec::new() }
}

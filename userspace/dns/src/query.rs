//! A packet to a question: what is well-formed and answerable, what is refused, what gets no answer.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::question::{ClientEdns, MAX_UDP_BYTES, Query, own_edns};
use crate::reply::Reply;

/// Bytes of a header.
const HEADER_BYTES: usize = 12;
/// What to do with a packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// It is no query: an answer would only add to what some sender tries.
    Ignore,
    /// The answer says why there is none.
    Refuse(Vec<u8>),
    Ask(Query),
}

/// Never fails and never panics, whatever the bytes are.
pub fn parse(packet: &[u8]) -> Parsed {
    let Some(header) = packet.get(..HEADER_BYTES) else { return Parsed::Ignore };
    let id = u16::from_be_bytes([header[0], header[1]]);
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return Parsed::Ignore;
    }
    let op_code = OpCode::from_u8(header[2] >> 3 & 0x0f);
    let refuse = |code| Parsed::Refuse(refusal(id, op_code, code));
    if op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    // RFC 9619: one question. Nothing else of a query has records, except for additional ones.
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if count(4) != 1 || count(6) != 0 || count(8) != 0 {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(packet) else { return refuse(ResponseCode::FormErr) };
    let [question] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    let query = Query {
        id,
        name: question.name.clone(),
        kind: question.query_type,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message
            .edns
            .as_ref()
            .map(|edns| ClientEdns { payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok }),
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Parsed::Refuse(Reply::of(ResponseCode::BADVERS).encode(&query, MAX_UDP_BYTES.into()));
    }
    if question.query_class != DNSClass::IN
        || matches!(query.kind, RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG)
    {
        return Parsed::Refuse(refuse_question(&message));
    }
    Parsed::Ask(query)
}

/// A refusal of a question that could not be read.
fn refusal(id: u16, op_code: OpCode, code: ResponseCode) -> Vec<u8> {
    Message::error_msg(id, op_code, code).to_vec().unwrap_or_default()
}

/// A refusal of a question that was read; it repeats the question.
fn refuse_question(message: &Message) -> Vec<u8> {
    let mut response = Message::error_msg(message.metadata.id, OpCode::Query, ResponseCode::Refused);
    response.metadata.recursion_desired = message.metadata.recursion_desired;
    response.queries.clone_from(&message.queries);
    response.edns = message.edns.as_ref().map(|_| own_edns(false));
    response.to_vec().unwrap_or_default()
}

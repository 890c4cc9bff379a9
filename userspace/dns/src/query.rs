//! A packet to a question: what is well-formed and answerable, what is refused, what gets no answer.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

/// Bytes of a header.
const HEADER_BYTES: usize = 12;
/// Bytes of a UDP answer to a client that does not say more (RFC 1035, 4.2.1).
const MIN_UDP_BYTES: u16 = 512;
/// Bytes of the largest UDP answer: it is never fragmented (DNS Flag Day 2020).
pub(crate) const MAX_UDP_BYTES: u16 = 1232;

/// A question that may be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub id: u16,
    /// As it was asked, in its case.
    pub name: Name,
    pub kind: RecordType,
    pub recursion_desired: bool,
    pub checking_disabled: bool,
    pub edns: Option<ClientEdns>,
}

/// What a client says of itself (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEdns {
    /// Bytes of UDP answers that it takes.
    pub payload: u16,
    pub dnssec_ok: bool,
}

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
        edns: message.edns.as_ref().map(|edns| ClientEdns {
            payload: edns.max_payload(),
            dnssec_ok: edns.flags().dnssec_ok,
        }),
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Parsed::Refuse(query.refusal(ResponseCode::BADVERS));
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

impl Query {
    fn refusal(&self, code: ResponseCode) -> Vec<u8> {
        let reply = crate::reply::Reply::of(code);
        reply.encode(self, MAX_UDP_BYTES.into())
    }

    /// Bytes that an answer over UDP may have.
    pub fn udp_limit(&self) -> usize {
        let payload = self.edns.map_or(MIN_UDP_BYTES, |edns| edns.payload);
        payload.clamp(MIN_UDP_BYTES, MAX_UDP_BYTES).into()
    }

    pub(crate) fn start_of_reply(&self) -> Message {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(hickory_proto::op::Query::query(self.name.clone(), self.kind));
        message.edns = self.edns.map(|edns| own_edns(edns.dnssec_ok));
        message
    }
}

/// What this server says of itself.
fn own_edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES).set_dnssec_ok(dnssec_ok);
    edns
}

//! A question as a value, and the beginning of its answer.

use hickory_proto::op::{Edns, Message, MessageType, OpCode};
use hickory_proto::rr::{Name, RecordType};

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

impl Query {
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
pub(crate) fn own_edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_BYTES).set_dnssec_ok(dnssec_ok);
    edns
}

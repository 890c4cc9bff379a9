//! Any bytes are a question that is answered, a packet that is refused, or one that is ignored; nothing panics.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;
use skep_dns::query::{self, Parsed};
use skep_dns::resolution::{Forwarded, Next, Resolution};
use skep_dns::{Index, Settings};

/// More steps than any question needs.
const MAX_STEPS: usize = 64;

fn question() -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("www.example.org.").unwrap(), RecordType::A));
    message.edns = Some(Edns::new());
    message.to_vec().unwrap()
}

/// The answer's code; `None`: the packet is ignored.
fn answer(packet: &[u8]) -> Option<ResponseCode> {
    let (index, settings) = (Index::default(), Settings::new("cluster.local").unwrap());
    let bytes = match query::parse(packet) {
        Parsed::Ignore => return None,
        Parsed::Refuse(bytes) => bytes,
        Parsed::Ask(query) => {
            let mut resolution = Resolution::new(&query, None, &index, &settings, 3);
            let mut next = resolution.next(&index, &settings);
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < MAX_STEPS, "the question has no end");
                match next {
                    Next::Done(reply) => break reply.encode(&query, query.udp_limit()),
                    Next::Forward(_) => next = resolution.forwarded(Forwarded::Failed, &index, &settings),
                }
            }
        }
    };
    let message = Message::from_vec(&bytes).expect("an answer is well-formed");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert_eq!(message.metadata.id.to_be_bytes(), packet[..2], "the answer has the question's id");
    Some(message.metadata.response_code)
}

proptest! {
    #[test]
    fn any_bytes_are_answered_refused_or_ignored(packet in vec(any::<u8>(), 0..600)) {
        answer(&packet);
    }

    #[test]
    fn so_is_a_question_with_some_bytes_changed(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut packet = question();
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if cut {
            packet.truncate(length.index(packet.len()));
        }
        answer(&packet);
    }

    #[test]
    fn every_name_that_fits_into_a_packet_is_answered(labels in vec(vec(any::<u8>(), 1..20), 0..10)) {
        let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
        name.set_fqdn(true);
        for domain in ["", "default.svc.cluster.local", "in-addr.arpa", "ip6.arpa"] {
            let Ok(name) = name.clone().append_domain(&Name::from_ascii(domain).unwrap()) else { continue };
            let mut message = Message::new(7, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name, RecordType::A));
            prop_assert!(answer(&message.to_vec().unwrap()).is_some());
        }
    }
}

#[test]
fn packets_that_are_no_questions_have_their_own_answers() {
    let changed = |change: &dyn Fn(&mut Message)| {
        let mut message = Message::from_vec(&question()).unwrap();
        change(&mut message);
        answer(&message.to_vec().unwrap())
    };
    let with = |at: usize, byte: u8| {
        let mut packet = question();
        packet[at] = byte;
        answer(&packet)
    };
    assert_eq!(changed(&|_| {}), Some(ResponseCode::ServFail), "without upstreams");
    assert_eq!(changed(&|message| message.metadata.message_type = MessageType::Response), None);
    assert_eq!(answer(&question()[..11]), None, "shorter than a header");
    assert_eq!(changed(&|message| message.metadata.op_code = OpCode::Status), Some(ResponseCode::NotImp));
    assert_eq!(changed(&|message| message.metadata.op_code = OpCode::Update), Some(ResponseCode::NotImp));
    let other = Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A);
    assert_eq!(changed(&|message| message.queries.push(other.clone())), Some(ResponseCode::FormErr));
    assert_eq!(changed(&|message| message.queries.clear()), Some(ResponseCode::FormErr));
    for class in [DNSClass::ANY, DNSClass::CH] {
        let code = changed(&|message| message.queries[0].query_class = class);
        assert_eq!(code, Some(ResponseCode::Refused), "{class}");
    }
    assert_eq!(changed(&|message| message.metadata.truncation = true), Some(ResponseCode::ServFail));
    // The version of EDNS is the third byte from the end of an OPT record's header without options.
    let version = question().len() - 5;
    // The number is BADSIG's too.
    assert_eq!(with(version, 1).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));
    // A compression pointer to itself, and one beyond the packet.
    let pointer = |to: u8| {
        let mut packet = question();
        packet.splice(12..29, [0xc0, to]);
        answer(&packet)
    };
    assert_eq!(pointer(12), Some(ResponseCode::FormErr));
    assert_eq!(pointer(250), Some(ResponseCode::FormErr));
    assert_eq!(answer(&question()[..20]), Some(ResponseCode::FormErr), "cut in the name");
    let mut long = question();
    long.extend_from_slice(&[0; 4000]);
    assert!(answer(&long).is_some(), "bytes behind the message");
}

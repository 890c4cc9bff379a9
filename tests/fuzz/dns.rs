//! A node's DNS: questions of clients, answers of upstreams, settings.

use std::sync::LazyLock;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;
use skep_dns::forward::accept::{Asked, Verdict, accept};
use skep_dns::query::{self, Parsed};
use skep_dns::question::Query;
use skep_dns::reply::Reply;
use skep_dns::resolution::{Forwarded, Next, Resolution};
use skep_dns::resolv_conf::ResolvConf;
use skep_dns::{Index, Settings, corefile};

const DOMAIN: &str = "cluster.local";
/// More steps than any question needs.
const MAX_STEPS: usize = 64;
/// Bytes of an answer by TCP.
const MAX_ANSWER_BYTES: usize = 65_535;
/// A response to the question for an address of `www.example.`, up to the counts of records.
const HEAD: &[u8] = b"\0\x07\x81\x80\0\x01";
const QUESTION: &[u8] = b"\x03www\x07example\0\0\x01\0\x01";

/// A Service of each kind that has names of its own.
static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index::default();
    let services = json!([
        {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": [{"name": "http", "port": 80}]},
        {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
        {"type": "ExternalName", "externalName": "www.example.org"},
    ]);
    for (name, spec) in ["web", "db", "out"].iter().zip(services.as_array().into_iter().flatten()) {
        let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        index.apply_service(&serde_json::from_value(service).expect("a Service"));
    }
    let namespace = json!({"metadata": {"name": "default"}});
    index.apply_namespace(&serde_json::from_value(namespace).expect("a Namespace"));
    let slice = json!({
        "metadata": {"namespace": "default", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
        "endpoints": [{"addresses": ["10.1.0.5"], "hostname": "first"}],
    });
    index.apply_slice(&serde_json::from_value(slice).expect("an EndpointSlice"));
    index
});
static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings::new(DOMAIN).expect("a domain"));

/// Any packet is ignored, or its answer is a well-formed message with its id, by UDP and by TCP.
pub fn dns_question(bytes: &[u8]) {
    match query::parse(bytes) {
        Parsed::Ignore => {}
        Parsed::Refuse(answer) => check(&answer, bytes),
        Parsed::Ask(query) => {
            let reply = resolve(&query, &SETTINGS);
            for limit in [query.udp_limit(), MAX_ANSWER_BYTES] {
                let answer = reply.clone().encode(&query, limit);
                assert!(answer.len() <= limit, "{} bytes", answer.len());
                check(&answer, bytes);
            }
        }
    }
}

fn resolve(query: &Query, settings: &Settings) -> Reply {
    let mut resolution = Resolution::new(query, None, &INDEX, settings, 3);
    let mut next = resolution.next(&INDEX, settings);
    for _ in 0..MAX_STEPS {
        match next {
            Next::Done(reply) => return reply,
            Next::Forward(_) => next = resolution.forwarded(Forwarded::Failed, &INDEX, settings),
        }
    }
    panic!("the question has no end: {query:?}");
}

fn check(answer: &[u8], question: &[u8]) {
    Message::from_vec(answer).expect("an answer is well-formed");
    assert_eq!(answer[..2], question[..2], "the answer has the question's id");
}

fn address_of(name: &str) -> Query {
    Query {
        id: 7,
        name: Name::from_ascii(name).expect("a name"),
        kind: RecordType::A,
        recursion_desired: true,
        checking_disabled: false,
        edns: None,
    }
}

/// What an upstream sends, as it is and as the rest of an answer to the question. What is believed is encoded for the client.
pub fn dns_answer(bytes: &[u8]) {
    let query = address_of("www.example.");
    let (first, rest) = bytes.split_at(bytes.len().min(6));
    let mut whole = [HEAD, first].concat();
    whole.resize(HEAD.len() + 6, 0);
    // Few records, so that some are whole.
    for count in whole[HEAD.len()..].chunks_exact_mut(2) {
        count[0] = 0;
        count[1] %= 4;
    }
    whole.extend_from_slice(QUESTION);
    whole.extend_from_slice(rest);
    for packet in [bytes, &whole] {
        for dnssec_ok in [false, true] {
            let name = query.name.clone();
            let asked = Asked { name, kind: query.kind, dnssec_ok, checking_disabled: false };
            let Verdict::Answer(reply) = accept(packet, query.id, &asked) else { continue };
            assert!(matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain));
            for limit in [query.udp_limit(), MAX_ANSWER_BYTES] {
                Message::from_vec(&reply.clone().encode(&query, limit)).expect("an answer is well-formed");
            }
        }
    }
}

/// The text of a Corefile and of a resolv.conf; questions are answered under what they say.
pub fn dns_settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let conf = ResolvConf::parse(&text);
    let (settings, _) = corefile::compile(&text, DOMAIN, &conf).expect("the domain is one");
    for name in ["web.default.svc.cluster.local.", "www.example.", "web."] {
        let query = address_of(name);
        let answer = resolve(&query, &settings).encode(&query, query.udp_limit());
        Message::from_vec(&answer).expect("an answer is well-formed");
    }
}

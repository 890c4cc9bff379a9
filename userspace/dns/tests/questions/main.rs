//! Questions with their answers as a text: `testdata/questions.txt`, about the objects and the upstream names of
//! `testdata/cluster.json`. `SKEP_REWRITE=1` writes the answers that the code gives; read the difference before it is committed.
//!
//! `> NAME TYPE [from ADDRESS]` is a question; the lines after it are the answer: names sent to upstreams, the code with the
//! flags that are set, records by section.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::Value;
use skep_dns::query::{self, Parsed};
use skep_dns::reply::Reply;
use skep_dns::resolution::{Forwarded, Next, Resolution};
use skep_dns::rewrite::{Match, Rewrite};
use skep_dns::{Index, Settings};

/// The least number of questions that the table must have.
const MIN_QUESTIONS: usize = 150;

struct World {
    index: Index,
    settings: Settings,
    /// What upstream servers have, by name in lower case.
    upstream: BTreeMap<String, Vec<RData>>,
}

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/questions/testdata").join(name)
}

impl World {
    fn load() -> World {
        let text = std::fs::read_to_string(testdata("cluster.json")).unwrap();
        let cluster: Value = serde_json::from_str(&text).unwrap();
        let mut index = Index::default();
        let list = |field: &str| cluster[field].as_array().cloned().unwrap_or_default();
        for object in list("namespaces") {
            index.apply_namespace(&serde_json::from_value(object).unwrap());
        }
        for object in list("services") {
            index.apply_service(&serde_json::from_value(object).unwrap());
        }
        for object in list("slices") {
            index.apply_slice(&serde_json::from_value(object).unwrap());
        }
        for object in list("pods") {
            index.apply_pod(&serde_json::from_value(object).unwrap());
        }
        let mut settings = Settings::new("cluster.local").unwrap();
        settings.node_searches = vec![name("corp.example.")];
        settings.hosts.insert(&name("printer.office.example."), "192.0.2.50".parse().unwrap());
        settings.hosts.insert(&name("printer.office.example."), "2001:db8::50".parse().unwrap());
        settings.rewrites = vec![
            Rewrite {
                matches: Match::Exact("db.legacy.example.".into()),
                to: "single.shop.svc.cluster.local.".into(),
            },
            Rewrite { matches: Match::Suffix(".old.example.".into()), to: ".shop.svc.cluster.local.".into() },
        ];
        let mut upstream = BTreeMap::new();
        for (owner, values) in cluster["upstream"].as_object().unwrap() {
            let data = values.as_array().unwrap().iter().map(|text| rdata(text.as_str().unwrap())).collect();
            upstream.insert(owner.clone(), data);
        }
        World { index, settings, upstream }
    }

    /// The upstream's answer; `fails.example.` has none.
    fn ask_upstream(&self, asked: &Name, kind: RecordType) -> Forwarded {
        let key = asked.to_lowercase().to_ascii();
        if key == "fails.example." {
            return Forwarded::Failed;
        }
        let Some(data) = self.upstream.get(&key) else {
            return Forwarded::Answer(Reply::of(ResponseCode::NXDomain));
        };
        let mut reply = Reply::of(ResponseCode::NoError);
        let of_kind = data.iter().filter(|data| data.record_type() == kind);
        reply.answers = of_kind.map(|data| Record::from_rdata(asked.clone(), 300, data.clone())).collect();
        Forwarded::Answer(reply)
    }

    /// The answer as text.
    fn answer(&self, question: &str) -> String {
        let words: Vec<&str> = question.split_whitespace().collect();
        let client: Option<IpAddr> =
            words.iter().position(|word| *word == "from").map(|at| words[at + 1].parse().unwrap());
        let edns = words.contains(&"edns");
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let kind = match words[1] {
            "IXFR" => RecordType::IXFR,
            kind => kind.parse().unwrap(),
        };
        message.add_query(Question::query(name(words[0]), kind));
        message.edns = edns.then(Edns::new);
        let mut text = String::new();
        let packet = match query::parse(&message.to_vec().unwrap()) {
            Parsed::Ignore => return "ignored\n".to_owned(),
            Parsed::Refuse(packet) => packet,
            Parsed::Ask(query) => {
                let client = client.and_then(|ip| self.index.client_at(&ip));
                let mut resolution = Resolution::new(&query, client, &self.index, &self.settings, 0);
                let mut next = resolution.next(&self.index, &self.settings);
                loop {
                    match next {
                        Next::Done(reply) => break reply.encode(&query, query.udp_limit()),
                        Next::Forward(to) => {
                            writeln!(text, "forward {to}").unwrap();
                            let said = self.ask_upstream(&to, query.kind);
                            next = resolution.forwarded(said, &self.index, &self.settings);
                        }
                    }
                }
            }
        };
        let response = Message::from_vec(&packet).unwrap();
        assert_eq!((response.metadata.id, response.metadata.message_type), (7, MessageType::Response));
        assert_eq!(response.queries, message.queries, "the question is repeated");
        assert_eq!(response.edns.is_some(), edns, "EDNS is answered with EDNS only");
        show(&response, &mut text);
        text
    }
}

fn show(response: &Message, text: &mut String) {
    let code = match response.metadata.response_code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::ServFail => "SERVFAIL",
        other => panic!("{other}"),
    };
    let flags = [(response.metadata.authoritative, " aa"), (response.metadata.truncation, " tc")];
    let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    writeln!(text, "{code}{flags}").unwrap();
    let sections = [
        ("", &response.answers),
        ("authority ", &response.authorities),
        ("additional ", &response.additionals),
    ];
    for (section, records) in sections {
        for record in records {
            let Record { name, ttl, data, .. } = record;
            writeln!(text, "{section}{name} {ttl} {} {data}", data.record_type()).unwrap();
        }
    }
}

fn name(text: &str) -> Name {
    // Not by the parser for texts: that refuses labels which packets may have.
    let labels = text.split('.').filter(|label| !label.is_empty());
    Name::from_labels(labels.map(str::as_bytes)).unwrap()
}

fn rdata(text: &str) -> RData {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => RData::A(ip.into()),
        Ok(IpAddr::V6(ip)) => RData::AAAA(ip.into()),
        Err(_) => RData::CNAME(CNAME(name(text))),
    }
}

#[test]
fn every_question_of_the_table_has_its_answer() {
    let world = World::load();
    let table = std::fs::read_to_string(testdata("questions.txt")).unwrap();
    let mut now = String::new();
    let mut questions = 0;
    let mut lines = table.lines().peekable();
    let mut wrong = Vec::new();
    while let Some(line) = lines.next() {
        writeln!(now, "{line}").unwrap();
        let Some(question) = line.strip_prefix("> ") else { continue };
        questions += 1;
        let mut before = String::new();
        while let Some(line) = lines.next_if(|line| !line.is_empty() && !line.starts_with(['>', '#'])) {
            writeln!(before, "{line}").unwrap();
        }
        let answer = world.answer(question);
        if answer != before {
            wrong.push(format!("> {question}\nwritten:\n{before}answered:\n{answer}"));
        }
        now.push_str(&answer);
    }
    assert!(questions >= MIN_QUESTIONS, "{questions} questions");
    if std::env::var_os("SKEP_REWRITE").is_some() {
        std::fs::write(testdata("questions.txt"), now).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{} of {questions} differ:\n{}", wrong.len(), wrong.join("\n"));
}

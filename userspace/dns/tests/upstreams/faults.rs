//! Upstreams that do not do their work.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use skep_dns::settings::{Transport, Upstream};

use crate::node::{ANSWER_TIMEOUT, Node, SERVICE, SERVICE_IP, addresses, question};
use crate::upstream::{RIGHT, Server, WRONG, answer, send, tcp};

/// Nothing is there: the kernel answers that the port is closed.
fn closed() -> Upstream {
    let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Upstream { addr, transport: Transport::Plain }
}

fn silent() -> Server {
    Server::udp(|_, _, _| {})
}

#[test]
fn a_dead_or_silent_upstream_does_not_keep_an_answer_from_its_neighbour() {
    let (mute, honest) = (silent(), Server::honest());
    for dead in [closed(), mute.plain()] {
        let node = Node::new(vec![dead, honest.plain()]);
        let mut client = node.client();
        for round in 0..8 {
            assert_eq!(addresses(&client.ask(&format!("n{round}.example."))), [RIGHT], "question {round}");
        }
        // Once it counts as down no question waits for it.
        let begun = Instant::now();
        client.ask("late.example.");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

#[test]
fn without_any_upstream_that_answers_a_question_fails_before_the_client_gives_up() {
    let mute = silent();
    for upstreams in [vec![closed()], vec![mute.plain(), closed()]] {
        let node = Node::new(upstreams);
        let mut client = node.client();
        assert_eq!(client.ask("www.example.").metadata.response_code, ResponseCode::ServFail);
        assert_eq!(addresses(&client.ask(SERVICE)), [SERVICE_IP], "names of the cluster need no upstream");
    }
}

#[test]
fn a_slow_upstream_is_overtaken() {
    let slow = Server::udp(|question, socket, from| {
        let (socket, late) = (socket.try_clone().unwrap(), answer(question, &[WRONG]));
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            send(&socket, from, &late);
        });
    });
    let honest = Server::honest();
    let node = Node::new(vec![slow.plain(), honest.plain()]);
    let mut client = node.client();
    let begun = Instant::now();
    assert_eq!(addresses(&client.ask("www.example.")), [RIGHT]);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert!(slow.asked() > 0 && honest.asked() > 0);
}

#[test]
fn answers_with_another_id_question_port_or_form_are_not_believed() {
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    let liar = Server::udp(move |question, socket, from| {
        let lie = answer(question, &[WRONG]);
        send(&elsewhere, from, &lie);
        let mut of_other_id = lie.clone();
        of_other_id.metadata.id ^= 1;
        send(socket, from, &of_other_id);
        let mut of_other_name = lie.clone();
        of_other_name.queries[0].set_name(Name::from_ascii("bank.example.").unwrap());
        send(socket, from, &of_other_name);
        // Not even the header of a message; and a question.
        socket.send_to(b"lie", from).unwrap();
        socket.send_to(&crate::node::question(question.metadata.id, "www.example."), from).unwrap();
        let mut right = answer(question, &[RIGHT]);
        // A record of a name that was not asked for.
        let mut other = right.answers[0].clone();
        other.name = Name::from_ascii("bank.example.").unwrap();
        right.add_answer(other);
        send(socket, from, &right);
    });
    let node = Node::new(vec![liar.plain()]);
    let mut client = node.client();
    let answer = client.ask("www.example.");
    assert_eq!(addresses(&answer), [RIGHT], "{answer}");
    assert!(answer.answers.iter().all(|record| record.name.to_ascii() == "www.example."), "{answer}");
}

#[test]
fn refusals_and_answers_without_meaning_lead_to_the_next_upstream() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp, ResponseCode::FormErr] {
        let refusing = Server::udp(move |question, socket, from| {
            let mut refusal = answer(question, &[]);
            refusal.metadata.response_code = code;
            send(socket, from, &refusal);
        });
        let node = Node::new(vec![refusing.plain(), Server::honest().plain()]);
        assert_eq!(addresses(&node.client().ask("www.example.")), [RIGHT], "{code}");
    }
}

/// As many addresses as no UDP packet of the client takes.
#[test]
fn a_truncated_answer_is_asked_for_by_tcp_and_truncated_for_a_small_client() {
    let truncating = Server::udp(|question, socket, from| {
        let mut cut = answer(question, &[WRONG]);
        cut.metadata.truncation = true;
        send(socket, from, &cut);
    });
    let all: Vec<Ipv4Addr> = (0..120).map(|n| Ipv4Addr::new(203, 0, 113, n)).collect();
    let whole = all.clone();
    let connections = tcp(truncating.addr, move |question| answer(question, &whole));
    let node = Node::new(vec![truncating.plain()]);
    let cut = node.client().ask("many.example.");
    assert!(cut.metadata.truncation && cut.to_vec().unwrap().len() <= 512, "{} answers", cut.answers.len());
    let mut stream = TcpStream::connect(node.addr).unwrap();
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
    let packet = question(7, "many.example.");
    stream.write_all(&[&(packet.len() as u16).to_be_bytes()[..], &packet].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).unwrap();
    let mut found = addresses(&Message::from_vec(&bytes).unwrap());
    found.sort();
    assert_eq!(found, all);
    assert_eq!(
        (truncating.asked(), connections.load(Ordering::Relaxed)),
        (1, 1),
        "one question, then the cache"
    );
}

#[test]
fn an_upstream_that_truncates_and_has_no_tcp_is_one_that_failed() {
    let truncating = Server::udp(|question, socket, from| {
        let mut cut = answer(question, &[WRONG]);
        cut.metadata.truncation = true;
        send(socket, from, &cut);
    });
    let node = Node::new(vec![truncating.plain(), Server::honest().plain()]);
    assert_eq!(addresses(&node.client().ask("www.example.")), [RIGHT]);
}

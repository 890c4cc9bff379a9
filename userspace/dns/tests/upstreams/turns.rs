//! A client with thousands of questions in the socket delays another's only question by one turn.

use std::net::Ipv4Addr;

use skep_dns::Sockets;

use crate::node::{Client, Node, SERVICE, SERVICE_IP, addresses, question};

const QUESTIONS: usize = 4_000;

#[test]
fn a_client_with_thousands_of_questions_delays_no_other() {
    let mut node = Node::new(Vec::new());
    let sockets = Sockets::bind([node.addr]).unwrap();
    // No server runs on the sockets while they fill.
    node.serve(Sockets::default());
    let greedy = Client::from(Ipv4Addr::new(127, 0, 0, 2), node.addr);
    for id in 0..QUESTIONS {
        greedy.socket.send(&question(id as u16, SERVICE)).unwrap();
    }
    let mut other = Client::from(Ipv4Addr::new(127, 0, 0, 3), node.addr);
    other.send(SERVICE);
    node.serve(sockets);
    assert_eq!(addresses(&other.receive().expect("an answer")), [SERVICE_IP]);
    // All of the other client's were in the socket before it: in order of arrival, each would be answered by now.
    let answered = node.metric("skep_dns_response_duration_seconds_count");
    assert!(answered < QUESTIONS as u64 / 2, "{answered} of {QUESTIONS} were answered before");
}

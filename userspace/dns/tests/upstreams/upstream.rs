//! Name servers on loopback addresses that behave as a test says.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::{RData, Record};
use skep_dns::settings::{Transport, Upstream};

pub(crate) const RIGHT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const WRONG: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

/// A server of its own thread; it goes on until the test's process ends.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Server {
    /// `behave` gets each question, the socket and the sender.
    pub(crate) fn udp(behave: impl Fn(&Message, &UdpSocket, SocketAddr) + Send + 'static) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = Server { addr: socket.local_addr().unwrap(), asked: Arc::default() };
        let asked = server.asked.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..length]).expect("a well-formed question");
                asked.fetch_add(1, Ordering::Relaxed);
                behave(&question, &socket, from);
            }
        });
        server
    }

    /// Answers rightly.
    pub(crate) fn honest() -> Server {
        Server::udp(|question, socket, from| send(socket, from, &answer(question, &[RIGHT])))
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn plain(&self) -> Upstream {
        Upstream { addr: self.addr, transport: Transport::Plain }
    }
}

pub(crate) fn send(socket: &UdpSocket, to: SocketAddr, message: &Message) {
    socket.send_to(&message.to_vec().unwrap(), to).unwrap();
}

/// The addresses as the answer to the question.
pub(crate) fn answer(question: &Message, addresses: &[Ipv4Addr]) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    let query = question.queries[0].clone();
    for address in addresses {
        answer.add_answer(Record::from_rdata(query.name().clone(), 300, RData::A((*address).into())));
    }
    answer.add_query(query);
    answer
}

/// Serves framed messages at the UDP server's address (RFC 1035, 4.2.2); the number of connections.
pub(crate) fn tcp(
    addr: SocketAddr,
    respond: impl Fn(&Message) -> Message + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    use std::io::{Read, Write};
    let listener = TcpListener::bind(addr).unwrap();
    let (count, respond) = (Arc::new(AtomicUsize::new(0)), Arc::new(respond));
    let connections = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            connections.fetch_add(1, Ordering::Relaxed);
            let respond = respond.clone();
            std::thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                    if stream.read_exact(&mut bytes).is_err() {
                        return;
                    }
                    let packet = respond(&Message::from_vec(&bytes).unwrap()).to_vec().unwrap();
                    let framed = [&(packet.len() as u16).to_be_bytes()[..], &packet].concat();
                    if stream.write_all(&framed).is_err() {
                        return;
                    }
                }
            });
        }
    });
    count
}

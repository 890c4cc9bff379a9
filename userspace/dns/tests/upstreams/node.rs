//! The server under test, and a client of it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use rustls::ClientConfig;
use serde_json::json;
use skep_dns::settings::{CacheLimits, Forward, Upstream};
use skep_dns::{Dns, Serving, Settings, Sockets};

/// As long as a resolver waits by default (resolv.conf(5)).
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A name of the cluster, and its address.
pub(crate) const SERVICE: &str = "web.default.svc.cluster.local.";
pub(crate) const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);

pub(crate) struct Node {
    pub(crate) addr: SocketAddr,
    pub(crate) dns: Dns,
    serving: Option<Serving>,
    _runtime: tokio::runtime::Runtime,
}

impl Node {
    pub(crate) fn new(upstreams: Vec<Upstream>) -> Node {
        Node::with(upstreams, CacheLimits::default(), skep_dns::tls::client_config().unwrap())
    }

    pub(crate) fn with(upstreams: Vec<Upstream>, cache: CacheLimits, tls: Arc<ClientConfig>) -> Node {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut settings = Settings::new("cluster.local").unwrap();
        settings.forwards = vec![Forward { zone: Name::root(), except: Vec::new(), upstreams }];
        settings.cache = cache;
        let dns = Dns::new(settings, tls, runtime.handle().clone());
        let service = json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": SERVICE_IP, "clusterIPs": [SERVICE_IP], "ports": [{"port": 80}]},
        });
        let namespace = json!({"metadata": {"name": "default"}});
        dns.update(|index| {
            index.apply_namespace(&serde_json::from_value(namespace).unwrap());
            index.apply_service(&serde_json::from_value(service).unwrap());
        });
        dns.listed();
        let (addr, sockets) = sockets();
        let mut node = Node { addr, dns, serving: None, _runtime: runtime };
        node.serve(sockets);
        node
    }

    /// Answers on these sockets instead of those before.
    pub(crate) fn serve(&mut self, sockets: Sockets) {
        self.serving = None;
        self.serving = Some(self.dns.serve(sockets).unwrap());
    }

    /// A counter or gauge of the metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        self.dns.write_metrics(&mut text);
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    pub(crate) fn client(&self) -> Client {
        Client::from(Ipv4Addr::LOCALHOST, self.addr)
    }
}

pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    id: u16,
}

impl Client {
    /// A client with an address of its own.
    pub(crate) fn from(ip: Ipv4Addr, server: SocketAddr) -> Client {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        Client { socket, id: 0 }
    }

    pub(crate) fn send(&mut self, name: &str) {
        self.id = self.id.wrapping_add(1);
        self.socket.send(&question(self.id, name)).unwrap();
    }

    /// The answer to the last question; `None`: none within the time.
    pub(crate) fn receive(&self) -> Option<Message> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).ok()?;
            let message = Message::from_vec(&buffer[..length]).expect("an answer is well-formed");
            if message.metadata.id == self.id {
                return Some(message);
            }
        }
    }

    pub(crate) fn ask(&mut self, name: &str) -> Message {
        self.send(name);
        self.receive().unwrap_or_else(|| panic!("{name} got no answer"))
    }
}

/// An address that is free for both protocols.
fn sockets() -> (SocketAddr, Sockets) {
    let bind = |_| {
        let addr = skep_test_servers::free_address().ok()?;
        Some((addr, Sockets::bind([addr]).ok()?))
    };
    (0..10).find_map(bind).expect("a port without a UDP socket of another test")
}

pub(crate) fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// The addresses in an answer.
pub(crate) fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &hickory_proto::rr::Record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

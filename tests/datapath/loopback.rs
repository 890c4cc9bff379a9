//! The node's own sockets at its loopback addresses: node ports there reach pods; pods' loopback addresses are their own.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::namespaces::{ANSWER_TIMEOUT, ask, serve};
use crate::node::Node;

const NODE_PORT: u16 = 30_080;
const TARGET: u16 = 8080;
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

struct World {
    node: Node,
    a: NetNs,
    b: NetNs,
    b_addrs: [IpAddr; 2],
    _outside: NetNs,
}

impl World {
    fn new(name: &str) -> Result<World> {
        let ip = |text: &str| text.parse::<IpAddr>();
        let outside = NetNs::new(&format!("sk{name}o"))?;
        let addrs = [(ip("10.78.0.1")?, ip("10.78.0.254")?), (ip("fd00:78::1")?, ip("fd00:78::254")?)];
        let mut node = Node::new(&format!("sk{name}n"), &outside, &addrs)?;
        let (a, ..) = node.add_pod(&format!("sk{name}a"), &[ip("10.77.1.2")?, ip("fd00:77::2")?])?;
        let b_addrs = [ip("10.77.1.3")?, ip("fd00:77::3")?];
        let (b, ..) = node.add_pod(&format!("sk{name}b"), &b_addrs)?;
        node.cgroup.make_threaded()?;
        let mut world = World { node, a, b, b_addrs, _outside: outside };
        for proto in [Proto::TCP, Proto::UDP] {
            for (loopback, backend) in LOOPBACK.into_iter().zip(world.b_addrs) {
                world.put(loopback, proto, Some(backend))?;
            }
        }
        Ok(world)
    }

    /// The node port at the loopback address, with the backend or refusing.
    fn put(&mut self, loopback: IpAddr, proto: Proto, backend: Option<IpAddr>) -> Result<()> {
        let set = u32::from(proto.0) * 2 + u32::from(loopback.is_ipv6());
        let key =
            ServiceKey { addr: loopback.into(), port: Be16::new(NODE_PORT), proto, scope: Scope::LOOPBACK };
        let flags = if backend.is_some() { 0 } else { ServiceValue::REJECT };
        let value = ServiceValue {
            set,
            count: backend.iter().count() as u32,
            service: set,
            flags,
            ..ServiceValue::default()
        };
        let backend_at = |ip| Backend { addr: Addr::from(ip), port: Be16::new(TARGET), reserved: 0 };
        let backends: Vec<Backend> = backend.map(backend_at).into_iter().collect();
        let writes = Write::backend_set(set, &backends).chain([Write::PutService(key, value)]);
        self.node.apply(&writes.collect::<Vec<_>>())
    }

    /// On a thread in the namespace and in the node's cgroup.
    fn within<T: Send>(&self, netns: &NetNs, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns.run(|| {
            self.node.cgroup.enter()?;
            work()
        })?
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

#[test]
fn connections_to_a_node_port_on_loopback_reach_the_pod() -> Result<()> {
    let mut world = World::new("lot")?;
    for ip in world.b_addrs {
        serve(&world.b, SocketAddr::new(ip, TARGET), b'b')?;
    }
    let mut loopback = LOOPBACK.to_vec();
    // Any address of the network, and IPv4 through an IPv6 socket.
    loopback.extend(["127.9.8.7", "::ffff:127.0.0.1"].map(|ip| ip.parse::<IpAddr>()).into_iter().flatten());
    world.within(&world.node.netns, || {
        for ip in &loopback {
            let to = SocketAddr::new(*ip, NODE_PORT);
            let mut stream = connect(to).with_context(|| to.to_string())?;
            ensure!(ask(&mut stream)? == b'b' && stream.peer_addr()? == to, "{to}");
            let other = connect(SocketAddr::new(*ip, NODE_PORT + 1));
            ensure!(other.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "another port of {ip}");
        }
        Ok(())
    })?;
    world.put(LOOPBACK[0], Proto::TCP, None)?;
    world.within(&world.node.netns, || {
        let refused = connect(SocketAddr::new(LOOPBACK[0], NODE_PORT));
        ensure!(
            refused.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused),
            "a node port without backends"
        );
        Ok(())
    })
}

#[test]
fn datagrams_to_a_node_port_on_loopback_reach_the_pod_and_answers_come_from_there() -> Result<()> {
    let world = World::new("lou")?;
    for (ip, loopback) in world.b_addrs.into_iter().zip(LOOPBACK) {
        let server = world.b.run(move || UdpSocket::bind((ip, TARGET)))??;
        server.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut buffer = [0; 16];
            loop {
                let (length, from) = server.recv_from(&mut buffer)?;
                server.send_to(&buffer[..length], from)?;
            }
        });
        world.within(&world.node.netns, || {
            let to = SocketAddr::new(loopback, NODE_PORT);
            let any: IpAddr =
                if loopback.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let mut buffer = [0; 16];
            let unconnected = UdpSocket::bind((any, 0))?;
            unconnected.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            unconnected.send_to(b"one", to)?;
            let (length, from) =
                unconnected.recv_from(&mut buffer).with_context(|| format!("answer from {to}"))?;
            ensure!(&buffer[..length] == b"one" && from == to, "{from}");
            let connected = UdpSocket::bind((any, 0))?;
            connected.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            connected.connect(to)?;
            ensure!(connected.peer_addr()? == to);
            connected.send(b"two")?;
            let length = connected.recv(&mut buffer)?;
            ensure!(&buffer[..length] == b"two");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_pods_loopback_addresses_are_its_own() -> Result<()> {
    let world = World::new("lop")?;
    for ip in world.b_addrs {
        serve(&world.b, SocketAddr::new(ip, TARGET), b'b')?;
    }
    for ip in LOOPBACK {
        let to = SocketAddr::new(ip, NODE_PORT);
        let refused = world.within(&world.a, || Ok(connect(to)))?;
        ensure!(refused.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused), "{to} in a pod");
        let listener = world.a.run(move || TcpListener::bind(to))??;
        let (own, _) = world.within(&world.a, || Ok((connect(to)?, ())))?;
        ensure!(listener.accept()?.1 == own.local_addr()?, "the pod's own server");
    }
    Ok(())
}

//! Direct server return between two nodes: the client's address is kept, and the answer does not come by the first node.

use std::collections::BTreeSet;
use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::NetNs;

use crate::namespaces::ANSWER_TIMEOUT;
use crate::node::{Lan, Node};

const NODE_PORT: u16 = 30_080;
const TARGET: u16 = 8_080;
const ANSWER: usize = 1 << 20;
/// Connections: enough that both pods have some.
const TIMES: usize = 16;

/// Both families' addresses alike.
fn ip(v4: bool, net: u8, third: u8, host: u8) -> IpAddr {
    if v4 {
        return IpAddr::from([10, net, third, host]);
    }
    IpAddr::from([0xfd00, u16::from(net), u16::from(third), 0, 0, 0, 0, u16::from(host)])
}

fn node(v4: bool, number: usize) -> IpAddr {
    ip(v4, 83, 0, number as u8 + 1)
}

fn pod(v4: bool, number: usize) -> IpAddr {
    ip(v4, 84, number as u8 + 1, 2)
}

/// Two nodes with a pod each and a client, all on one link.
struct World {
    nodes: [Node; 2],
    pods: [NetNs; 2],
    client: NetNs,
    _lan: Lan,
}

impl World {
    fn new(name: &str) -> Result<World> {
        let lan = Lan::new(&format!("sd{name}l"))?;
        let client = NetNs::new(&format!("sd{name}c"))?;
        lan.join(&client, "eth0", &[true, false].map(|v4| ip(v4, 83, 0, 100)))?;
        let start = |i: usize| {
            let addrs = [true, false].map(|v4| node(v4, i));
            Node::on_lan(&format!("sd{name}{i}"), &lan, &addrs, &[])
        };
        let mut nodes = [start(0)?, start(1)?];
        let mut pods = Vec::new();
        for (i, node) in nodes.iter_mut().enumerate() {
            pods.push(node.add_pod(&format!("sd{name}p{i}"), &[true, false].map(|v4| pod(v4, i)))?.0);
            node.apply(&network(i)?)?;
        }
        let pods = pods.try_into().ok().context("two pods")?;
        Ok(World { nodes, pods, client, _lan: lan })
    }

    /// In each pod a socket for datagrams that does not wait.
    fn servers(&self, v4: bool) -> Result<[UdpSocket; 2]> {
        let server = |i: usize| -> Result<UdpSocket> {
            let server = self.pods[i].run(|| UdpSocket::bind((pod(v4, i), TARGET)))??;
            server.set_nonblocking(true)?;
            Ok(server)
        };
        Ok([server(0)?, server(1)?])
    }
}

/// What a node knows of the other one.
fn network(this: usize) -> Result<Vec<Write>> {
    let other = 1 - this;
    let mut writes = Vec::new();
    for v4 in [true, false] {
        let (family, bits) = if v4 { (96, 24) } else { (0, 48) };
        for i in [0, 1] {
            let network = Addr::from(ip(v4, 84, i + 1, 0));
            writes.push(Write::PutCluster { prefix_bits: family + bits, addr: network });
            let node = Addr::from(node(v4, i.into()));
            writes.push(Write::PutCluster { prefix_bits: 128, addr: node });
        }
        let cidr = format!("{}/{bits}", ip(v4, 84, other as u8 + 1, 0)).parse()?;
        writes.push(Write::PutRoute { cidr, via: node(v4, other) });
    }
    Ok(writes)
}

/// The first node's port, as every node has it.
fn frontend(proto: Proto, v4: bool, at: IpAddr, backends: &[IpAddr]) -> Vec<Write> {
    let set = 1 + u32::from(v4) + 2 * u32::from(proto == Proto::UDP);
    let mut backends: Vec<Backend> = backends
        .iter()
        .map(|ip| Backend { addr: Addr::from(*ip), port: Be16::new(TARGET), reserved: 0 })
        .collect();
    backends.sort();
    let flags = ServiceValue::DSR;
    let value =
        ServiceValue { set, count: backends.len() as u32, service: set, flags, ..ServiceValue::default() };
    let key = ServiceKey { addr: Addr::from(at), port: Be16::new(NODE_PORT), proto, scope: Scope::EXTERNAL };
    Write::backend_set(set, &backends).chain([Write::PutService(key, value)]).collect()
}

/// Bytes that the interface sent.
fn sent(netns: &NetNs, interface: &str) -> Result<u64> {
    let output = netns.command("ip").args(["-s", "-j", "link", "show", interface]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    links[0]["stats64"]["tx"]["bytes"].as_u64().context("no bytes")
}

/// Answers every connection with many bytes and reports the client.
fn serve(netns: &NetNs, at: SocketAddr, times: usize) -> Result<JoinHandle<Result<Vec<IpAddr>>>> {
    let listener = netns.run(|| TcpListener::bind(at))??;
    Ok(std::thread::spawn(move || {
        let mut from = Vec::new();
        for _ in 0..times {
            let (mut stream, peer) = listener.accept()?;
            stream.write_all(&vec![7; ANSWER])?;
            from.push(peer.ip());
        }
        Ok(from)
    }))
}

fn fetch(netns: &NetNs, to: SocketAddr) -> Result<IpAddr> {
    let mut stream = netns.run(|| TcpStream::connect_timeout(&to, ANSWER_TIMEOUT))??;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let own = stream.local_addr()?.ip();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == ANSWER, "{} bytes", answer.len());
    Ok(own)
}

#[test]
fn the_backends_node_answers_the_client_itself() -> Result<()> {
    let mut world = World::new("tcp")?;
    for v4 in [true, false] {
        let at = SocketAddr::new(node(v4, 0), NODE_PORT);
        for node in &mut world.nodes {
            node.apply(&frontend(Proto::TCP, v4, at.ip(), &[pod(v4, 1)]))?;
        }
        let server = serve(&world.pods[1], SocketAddr::new(pod(v4, 1), TARGET), TIMES)?;
        let before = sent(&world.nodes[0].netns, "up0")?;
        let mut own = BTreeSet::new();
        for _ in 0..TIMES {
            own.insert(fetch(&world.client, at).with_context(|| format!("{at}"))?);
        }
        let from = server.join().ok().context("the server ended badly")??;
        ensure!(from.iter().all(|peer| own.contains(peer)), "{from:?} came, not {own:?}");
        // Acknowledgements of sixteen mebibytes.
        let passed = sent(&world.nodes[0].netns, "up0")? - before;
        println!("{passed} bytes by the first node of {} sent", TIMES * ANSWER);
        ensure!(passed > 0 && passed < (TIMES * ANSWER / 10) as u64, "{passed} bytes by the first node");
    }
    Ok(())
}

#[test]
fn nodes_with_the_same_backends_agree_on_whose_a_flow_is() -> Result<()> {
    let mut world = World::new("udp")?;
    for v4 in [true, false] {
        let at = SocketAddr::new(node(v4, 0), NODE_PORT);
        for i in [0, 1] {
            world.nodes[i].apply(&frontend(Proto::UDP, v4, at.ip(), &[pod(v4, 0), pod(v4, 1)]))?;
        }
        let servers = world.servers(v4)?;
        let mut served = [0; 2];
        for _ in 0..TIMES {
            let client = world.client.run(|| UdpSocket::bind((ip(v4, 83, 0, 100), 0)))??;
            client.connect(at)?;
            client.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            for _ in 0..2 {
                client.send(b"question")?;
                let mut buffer = [0; 16];
                let start = std::time::Instant::now();
                let server = loop {
                    let got = servers.iter().position(|server| {
                        let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
                        from == client.local_addr().unwrap_or(from) && server.send_to(b"answer", from).is_ok()
                    });
                    match got {
                        Some(server) => break server,
                        None => {
                            ensure!(
                                start.elapsed() < ANSWER_TIMEOUT,
                                "no backend got the question with its source"
                            )
                        }
                    }
                };
                served[server] += 1;
                // From the address that was asked, or the socket would not take it.
                ensure!(client.recv(&mut buffer)? == 6);
            }
        }
        ensure!(served.iter().all(|times| *times > 0 && times % 2 == 0), "{served:?}");
    }
    Ok(())
}

/// As while one of them knows of a change and the other does not. Which of them translates is chance: one that does not
/// know the other's station yet sends the packet back once.
#[test]
fn where_nodes_disagree_one_translates_instead_of_sending_it_back() -> Result<()> {
    let mut world = World::new("dis")?;
    for v4 in [true, false] {
        let at = SocketAddr::new(node(v4, 0), NODE_PORT);
        for i in [0, 1] {
            world.nodes[i].apply(&frontend(Proto::UDP, v4, at.ip(), &[pod(v4, 1 - i)]))?;
        }
        let servers = world.servers(v4)?;
        let client = world.client.run(|| UdpSocket::bind((ip(v4, 83, 0, 100), 0)))??;
        client.connect(at)?;
        client.set_read_timeout(Some(ANSWER_TIMEOUT / 10))?;
        let mut translated = 0;
        for _ in 0..15 {
            client.send(b"question")?;
            std::thread::sleep(ANSWER_TIMEOUT / 60);
            let mut buffer = [0; 16];
            for server in &servers {
                let Ok((_, from)) = server.recv_from(&mut buffer) else { continue };
                ensure!([0, 1].map(|i| node(v4, i)).contains(&from.ip()), "{from}");
                server.send_to(b"answer", from)?;
                ensure!(client.recv(&mut buffer).context("the answer")? == 6);
                translated += 1;
            }
        }
        // Both entries of the flow that led nowhere go with a packet each.
        ensure!(translated >= 11, "{translated} of 15");
    }
    Ok(())
}

//! Client, load-balancing node and the backend's node as namespaces around a router, with the real programs on both
//! nodes; requests of both families over TCP and UDP.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use skep_abi::{Addr, Backend, Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Write;
use skep_tests::netns::{NetNs, link};
use xtask::build_ebpf::bench_object;

use super::packet::{Family, Transport};
use crate::namespaces::{ANSWER_TIMEOUT, serve};
use crate::node::Node;

/// Where the pod listens.
const TARGET: u16 = 8_080;
/// What the pod answers.
pub(crate) const ANSWER: u8 = b'p';

/// Where everybody is in one family.
pub(crate) struct Plan {
    /// Each with the router's end of its link.
    pub(crate) balancer: (IpAddr, IpAddr),
    remote: (IpAddr, IpAddr),
    client: (IpAddr, IpAddr),
    pod: IpAddr,
    /// The network of all pods, and of the remote node's.
    pods: (IpAddr, u32),
    remote_pods: &'static str,
}

pub(crate) fn plan(family: Family) -> Plan {
    match family {
        Family::V4 => {
            let at = |net, host| IpAddr::V4(Ipv4Addr::new(10, 78, net, host));
            Plan {
                balancer: (at(0, 1), at(0, 254)),
                remote: (at(1, 1), at(1, 254)),
                client: (at(2, 1), at(2, 254)),
                pod: Ipv4Addr::new(10, 77, 2, 2).into(),
                pods: (Ipv4Addr::new(10, 77, 0, 0).into(), Addr::V4_PREFIX_BITS + 16),
                remote_pods: "10.77.2.0/24",
            }
        }
        Family::V6 => {
            let at = |net, host| IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, net, 0, 0, 0, host));
            Plan {
                balancer: (at(0, 1), at(0, 0xfe)),
                remote: (at(1, 1), at(1, 0xfe)),
                client: (at(2, 1), at(2, 0xfe)),
                pod: Ipv6Addr::new(0xfd77, 2, 0, 0, 0, 0, 0, 2).into(),
                pods: (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0).into(), 16),
                remote_pods: "fd77:2::/64",
            }
        }
    }
}

pub(crate) struct World {
    router: NetNs,
    client: NetNs,
    pub(crate) balancer: Node,
    _remote: Node,
    /// The router's end of the balancer's uplink, and the programs on it.
    to_balancer: String,
    taker: Option<Ebpf>,
    _pod: NetNs,
}

impl World {
    /// Names begin with `name`; the balancer's is that and a `b`.
    pub(crate) fn new(name: &str) -> Result<World> {
        let [router, client] = [NetNs::new(&format!("{name}o"))?, NetNs::new(&format!("{name}c"))?];
        for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            router.run(|| std::fs::write(format!("/proc/sys/net/{file}"), "1"))??;
        }
        let plans = Family::ALL.map(plan);
        let balancer = plans.each_ref().map(|plan| plan.balancer);
        let mut balancer = Node::new(&format!("{name}b"), &router, &balancer)?;
        let remote = plans.each_ref().map(|plan| plan.remote);
        let mut remote = Node::new(&format!("{name}r"), &router, &remote)?;
        link(&client, "eth0", &router, "to-client")?;
        for Plan { remote: (via, _), client: (ours, theirs), remote_pods, pods, .. } in &plans {
            let bits = if ours.is_ipv4() { 24 } else { 64 };
            client.ip(&["addr", "add", &format!("{ours}/{bits}"), "dev", "eth0", "nodad"])?;
            router.ip(&["addr", "add", &format!("{theirs}/{bits}"), "dev", "to-client", "nodad"])?;
            client.ip(&["route", "add", "default", "via", &theirs.to_string()])?;
            router.ip(&["route", "add", remote_pods, "via", &via.to_string()])?;
            for node in [&mut balancer, &mut remote] {
                node.apply(&[Write::PutCluster { prefix_bits: pods.1, addr: Addr::from(pods.0) }])?;
            }
        }
        let (pod, ..) = remote.add_pod(&format!("{name}p"), &plans.each_ref().map(|plan| plan.pod))?;
        for plan in &plans {
            let at = SocketAddr::new(plan.pod, TARGET);
            serve(&pod, at, ANSWER)?;
            echo(&pod, at)?;
        }
        let to_balancer = format!("to-{name}b");
        Ok(World { router, client, balancer, to_balancer, taker: None, _remote: remote, _pod: pod })
    }

    /// Makes the link to the balancer like a wire: checksums are finished, and frames of its XDP are taken.
    pub(crate) fn wire(&mut self) -> Result<()> {
        let mut ebpf = Ebpf::load_file(bench_object())?;
        let taker: &mut Xdp = ebpf.program_mut("empty_xdp").context("no empty_xdp")?.try_into()?;
        taker.load()?;
        self.router.run(|| taker.attach(&self.to_balancer, XdpMode::Driver))??;
        self.taker = Some(ebpf);
        ethtool(&self.router, &["-K", &self.to_balancer, "tx", "off"]).map(drop)
    }

    /// The pod as a service at the balancer's node port, in both families and protocols.
    pub(crate) fn expose(&mut self, port: u16, value: ServiceValue) -> Result<()> {
        let mut writes = Vec::new();
        for family in Family::ALL {
            let Plan { balancer: (node, _), pod, .. } = plan(family);
            let set = u32::from(port) * 2 + family as u32;
            let backend = Backend { addr: Addr::from(pod), port: Be16::new(TARGET), reserved: 0 };
            writes.extend(Write::backend_set(set, &[backend]));
            writes.extend([Proto::TCP, Proto::UDP].map(|proto| {
                let (addr, port) = (Addr::from(node), Be16::new(port));
                let key = ServiceKey { addr, port, proto, scope: Scope::EXTERNAL };
                Write::PutService(key, ServiceValue { set, count: 1, service: set, ..value })
            }));
        }
        self.balancer.apply(&writes)
    }

    /// A client of the node port. A datagram socket is not asked whether anybody is there.
    pub(crate) fn dial(&self, family: Family, transport: Transport, port: u16) -> Result<Client> {
        let to = SocketAddr::new(plan(family).balancer.0, port);
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.client.run(move || -> Result<Client> {
            Ok(match transport {
                Transport::Tcp => {
                    let stream = TcpStream::connect_timeout(&to, ANSWER_TIMEOUT).context("connect")?;
                    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                    stream.set_nodelay(true)?;
                    Client::Tcp(stream)
                }
                Transport::Udp => {
                    let socket = UdpSocket::bind((any, 0))?;
                    // Answers from anywhere else are not taken.
                    socket.connect(to)?;
                    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                    Client::Udp(socket)
                }
            })
        })?
    }

    /// A client of each family and protocol.
    pub(crate) fn dial_all(&self, port: u16) -> Result<Vec<Client>> {
        let kinds = Family::ALL.into_iter().flat_map(|f| Transport::ALL.map(|t| (f, t)));
        kinds
            .map(|(family, transport)| {
                self.dial(family, transport, port).with_context(|| format!("{family:?} {transport:?}"))
            })
            .collect()
    }
}

pub(crate) enum Client {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Client {
    /// One packet at least each way.
    pub(crate) fn ask(&mut self) -> Result<()> {
        let mut byte = [0];
        match self {
            Client::Tcp(stream) => {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte).context("no answer over TCP")?;
            }
            Client::Udp(socket) => {
                socket.send(&byte)?;
                socket.recv(&mut byte).context("no answer over UDP")?;
            }
        }
        ensure!(byte == [ANSWER], "answered by {byte:?}");
        Ok(())
    }
}

/// Answers datagrams until the process ends.
fn echo(netns: &NetNs, at: SocketAddr) -> Result<()> {
    let socket = netns.run(move || UdpSocket::bind(at))??;
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok((_, from)) = socket.recv_from(&mut byte) {
            let _ = socket.send_to(&[ANSWER], from);
        }
    });
    Ok(())
}

pub(crate) fn ethtool(netns: &NetNs, args: &[&str]) -> Result<String> {
    let output = netns.command("ethtool").args(args).output().context("run ethtool")?;
    ensure!(output.status.success(), "ethtool {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

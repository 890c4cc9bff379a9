//! A node of both families whose uplink is known to the last MAC, for test runs of `xdp_node`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use skep_abi::{Addr, Backend, Be16, Pod, Proto, Scope, ServiceKey, ServiceValue};
use skep_datapath::{Datapath, Options, ProgramLogLevel, SocketLb, Timeouts, Uplinks, XdpMode};
use skep_netplan::Write;
use skep_tests::bpffs;
use skep_tests::cgroup::Cgroup;
use skep_tests::netns::{NetNs, link};

use super::packet::{Family, PORT};
use crate::node::runtime;

pub(crate) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The way to everywhere.
pub(crate) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub(crate) const PASS: u32 = 2;
pub(crate) const TX: u32 = 3;

/// Services beside the plain one at [`PORT`], by port.
pub(crate) const LOCAL: u16 = 30_081;
pub(crate) const AFFINITY: u16 = 30_082;
pub(crate) const KEEP_SOURCE: u16 = 30_083;
pub(crate) const EMPTY: u16 = 30_084;
pub(crate) const NO_NEIGHBOUR: u16 = 30_085;
pub(crate) const OTHER_INTERFACE: u16 = 30_086;
pub(crate) const NARROW: u16 = 30_087;
pub(crate) const ON_NODE: u16 = 30_088;
pub(crate) const MANY_BACKENDS: u16 = 30_089;

pub(crate) struct Uplink {
    pub(crate) netns: NetNs,
    pub(crate) datapath: Datapath,
    _peers: [NetNs; 2],
    _cgroup: Cgroup,
    name: String,
}

impl Uplink {
    pub(crate) fn new(name: &str) -> Result<Uplink> {
        let netns = NetNs::new(name)?;
        let peers = [NetNs::new(&format!("{name}o"))?, NetNs::new(&format!("{name}x"))?];
        link(&netns, "up0", &peers[0], "to-node")?;
        link(&netns, "up1", &peers[1], "to-node")?;
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let (node, router) = (mac(NODE_MAC), mac(ROUTER_MAC));
        for line in [
            format!("link set up0 address {node}"),
            "addr add 10.78.0.1/24 dev up0".to_owned(),
            "addr add 10.79.0.1/24 dev up1".to_owned(),
            "addr add fd78::1/64 dev up0 nodad".to_owned(),
            format!("neigh replace 10.78.0.254 lladdr {router} dev up0 nud permanent"),
            format!("neigh replace fd78::fe lladdr {router} dev up0 nud permanent"),
            "route add default via 10.78.0.254".to_owned(),
            "route add default via fd78::fe".to_owned(),
            "route add 10.77.5.0/24 via 10.78.0.77".to_owned(),
            "route add fd77:5::/64 via fd78::77".to_owned(),
            "route add 10.77.6.0/24 via 10.79.0.254".to_owned(),
            "route add fd77:6::/64 dev up1".to_owned(),
            "route add 10.77.7.0/24 via 10.78.0.254 mtu lock 600".to_owned(),
            "route add fd77:7::/64 via fd78::fe mtu lock 1280".to_owned(),
        ] {
            netns.ip(&line.split(' ').collect::<Vec<_>>())?;
        }
        let cgroup = Cgroup::new(name)?;
        let options = Options {
            bpffs: bpffs::folder(name)?,
            cgroup: cgroup.path().to_owned(),
            uplinks: Uplinks::Named(vec!["up0".to_owned()]),
            xdp: XdpMode::Off,
            node_addrs: vec![Family::V4.node(), Family::V6.node()],
            overlay: false,
            conntrack_max: 0,
            timeouts: Timeouts::DEFAULT,
            pod_new_flows: 0,
            socket_lb: SocketLb::All,
            service_cidrs: Vec::new(),
            masquerade_exemptions: Vec::new(),
            program_log: ProgramLogLevel::Off,
            big_tcp: false,
        };
        let opened = netns.run(move || runtime().block_on(Datapath::open(options)))?;
        let datapath = opened.context("open the datapath")?;
        let mut uplink = Uplink { netns, datapath, _peers: peers, _cgroup: cgroup, name: name.to_owned() };
        for family in Family::ALL {
            uplink.add_services(family)?;
        }
        Ok(uplink)
    }

    pub(crate) fn apply(&mut self, writes: &[Write]) -> Result<()> {
        Ok(self.netns.run(|| self.datapath.apply(writes))??)
    }

    /// Verdict and packet.
    pub(crate) fn run(&mut self, packet: &[u8]) -> Result<(u32, Vec<u8>)> {
        let (verdict, out, _) = self.repeat(packet, 1)?;
        ensure!(verdict == PASS || verdict == TX, "verdict {verdict}");
        ensure!(verdict == TX || out == packet, "a packet that goes up was changed");
        Ok((verdict, out))
    }

    pub(crate) fn repeat(&mut self, packet: &[u8], times: u32) -> Result<(u32, Vec<u8>, u64)> {
        Ok(self.netns.run(|| self.datapath.test_run("xdp_node", packet, times))??)
    }

    fn add_services(&mut self, family: Family) -> Result<()> {
        let host = |net: u16, host: u16| -> IpAddr {
            match family {
                Family::V4 => Ipv4Addr::new(10, 77, net as u8, host as u8).into(),
                Family::V6 => Ipv6Addr::new(0xfd77, net, 0, 0, 0, 0, 0, host).into(),
            }
        };
        let local = host(1, 2);
        let plain = ServiceValue::default();
        let keep = ServiceValue { flags: ServiceValue::KEEP_SOURCE, ..plain };
        let affine = ServiceValue { affinity_seconds: 10_800, ..plain };
        let to = |ip| vec![SocketAddr::new(ip, 8080)];
        let remote = family.backend().ip();
        let mut writes = vec![Write::PutPod(Addr::from(local), Pod { ifindex: 1, ..Pod::default() })];
        let services = [
            (PORT, to(remote), plain),
            (LOCAL, to(local), plain),
            (AFFINITY, to(remote), affine),
            (KEEP_SOURCE, to(remote), keep),
            (EMPTY, vec![], plain),
            (NO_NEIGHBOUR, to(host(5, 2)), plain),
            (OTHER_INTERFACE, to(host(6, 2)), plain),
            (NARROW, to(host(7, 2)), plain),
            (ON_NODE, to(family.node()), plain),
            (MANY_BACKENDS, (2..10).flat_map(|n| to(host(2, n))).collect(), plain),
        ];
        for (port, backends, value) in services {
            let set = u32::from(port) * 2 + family as u32;
            let backend = |backend: &SocketAddr| {
                let port = Be16::new(backend.port());
                Backend { addr: Addr::from(backend.ip()), port, reserved: 0 }
            };
            let backends: Vec<Backend> = backends.iter().map(backend).collect();
            writes.extend(Write::backend_set(set, &backends));
            for proto in [Proto::TCP, Proto::UDP] {
                let addr = Addr::from(family.node());
                let key = ServiceKey { addr, port: Be16::new(port), proto, scope: Scope::EXTERNAL };
                let value = ServiceValue { set, count: backends.len() as u32, service: set, ..value };
                writes.push(Write::PutService(key, value));
            }
        }
        self.apply(&writes)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        if let Ok(folder) = bpffs::folder(&self.name) {
            let _ = Datapath::remove(&folder);
        }
    }
}

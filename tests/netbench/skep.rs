//! Skep under measurement: the datapath on a node of namespaces, written by the planner from API objects as the agent
//! does it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use skep_abi::Pod;
use skep_datapath::{
    Datapath, Options, PodInterface, PodLink, ProgramLogLevel, SocketLb, Timeouts, Trial, Uplinks, XdpMode,
};
use skep_netplan::{Index, Observed, Owner, Planner};
use skep_tests::bpffs;
use skep_tests::cgroup::Cgroup;
use skep_tests::netns::NetNs;

use crate::cluster::{GUARDED, NODE, NODE_ADDR, OPEN, Pair, REQUESTS};
use crate::world::{self, Subject, UPLINK, Uplink, Way};
use crate::{cluster, placement::Placement};

/// A node with its datapath, its uplink and nothing in the maps.
pub(crate) struct Machine {
    pub(crate) datapath: Option<Datapath>,
    pub(crate) node: NetNs,
    pub(crate) uplink: Uplink,
    pub(crate) cgroup: Cgroup,
    name: String,
}

impl Machine {
    /// Without a datapath: for an agent, which opens its own.
    pub(crate) fn bare(name: &str) -> Result<Machine> {
        let _ = Datapath::remove(&bpffs::folder(name)?);
        let node = NetNs::new(&format!("{name}-n"))?;
        let uplink = Uplink::new(name, &node)?;
        let cgroup = Cgroup::new(name)?;
        Ok(Machine { datapath: None, node, uplink, cgroup, name: name.to_owned() })
    }

    pub(crate) fn new(name: &str) -> Result<Machine> {
        Machine::open(name, &[NODE_ADDR.into()], Trial::default())
    }

    /// A node of these addresses.
    pub(crate) fn with_addrs(name: &str, addrs: &[IpAddr]) -> Result<Machine> {
        Machine::open(name, addrs, Trial::default())
    }

    /// As [`Machine::with_addrs`], with other programs than an agent's.
    pub(crate) fn open(name: &str, addrs: &[IpAddr], trial: Trial) -> Result<Machine> {
        Machine::open_with(name, addrs, trial, false)
    }

    /// As [`Machine::open`]; `big_tcp`: with TCP packets of more than 64 KB.
    fn open_with(name: &str, addrs: &[IpAddr], trial: Trial, big_tcp: bool) -> Result<Machine> {
        let mut machine = Machine::bare(name)?;
        let options = Options { node_addrs: addrs.to_vec(), big_tcp, ..machine.options()? };
        let opened = machine.node.run(|| runtime()?.block_on(open_trial(options, trial)))?;
        machine.datapath = Some(opened.context("open the datapath")?);
        Ok(machine)
    }

    pub(crate) fn options(&self) -> Result<Options> {
        Ok(options(self.pins()?, self.cgroup.path().to_owned()))
    }

    pub(crate) fn pins(&self) -> Result<PathBuf> {
        bpffs::folder(&self.name)
    }

    /// Works on the datapath in the node's namespace.
    pub(crate) fn work<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Datapath) -> Result<T> + Send,
    ) -> Result<T> {
        let datapath = self.datapath.as_mut().context("no datapath")?;
        self.node.run(|| work(datapath))?
    }

    fn place(&self, netns: &NetNs) -> Placement {
        Placement { netns: netns.path(), cgroup: Some(self.cgroup.path().to_owned()) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.datapath = None;
        if let Ok(folder) = self.pins() {
            let _ = Datapath::remove(&folder);
        }
    }
}

pub(crate) fn options(bpffs: PathBuf, cgroup: PathBuf) -> Options {
    Options {
        bpffs,
        cgroup,
        uplinks: Uplinks::Named(vec![UPLINK.to_owned()]),
        xdp: XdpMode::Driver,
        node_addrs: vec![NODE_ADDR.into()],
        overlay: false,
        conntrack_max: 0,
        timeouts: Timeouts::DEFAULT,
        pod_new_flows: 0,
        socket_lb: SocketLb::All,
        service_cidrs: Vec::new(),
        masquerade_exemptions: Vec::new(),
        program_log: ProgramLogLevel::Off,
        big_tcp: false,
    }
}

/// Where the maps are pinned.
pub(crate) fn maps(pins: &Path) -> PathBuf {
    pins.join(format!("v{}/maps", skep_abi::ABI_VERSION))
}

pub(crate) async fn open(options: Options) -> Result<Datapath> {
    Ok(Datapath::open(options).await?)
}

async fn open_trial(options: Options, trial: Trial) -> Result<Datapath> {
    Ok(Datapath::open_trial(options, trial).await?)
}

/// Of the calling thread's own, since the thread is what lives in a namespace.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A planner whose informers have synced.
pub(crate) fn planner(services: u32, observed: Observed) -> Planner {
    let mut planner = Planner::new(NODE, vec![NODE_ADDR.into()], observed);
    cluster::apply(&mut planner.index, services);
    planner.synced();
    planner
}

/// Plans, writes and commits once; how long each took.
pub(crate) fn write(planner: &mut Planner, datapath: &mut Datapath) -> Result<(Duration, Duration)> {
    let start = Instant::now();
    let mut plan = planner.plan();
    let planned = start.elapsed();
    datapath.apply(&plan.writes)?;
    plan.done(plan.writes.len());
    planner.commit(plan);
    Ok((planned, start.elapsed()))
}

/// Takes all services out again.
pub(crate) fn clear(planner: &mut Planner, datapath: &mut Datapath) -> Result<()> {
    planner.index.keep_services(&HashSet::new());
    planner.index.keep_slices(&HashSet::new());
    write(planner, datapath)?;
    // What was garbage before is taken away by the call after.
    for _ in 0..2 {
        let mut plan = planner.collect();
        datapath.apply(&plan.writes)?;
        plan.done(plan.writes.len());
        planner.commit(plan);
    }
    Ok(())
}

/// A node with two pairs of pods and so many services.
pub(crate) struct Skep {
    name: &'static str,
    pub(crate) machine: Machine,
    pods: Vec<NetNs>,
    services: u32,
}

impl Skep {
    pub(crate) fn new(name: &str, services: u32) -> Result<Skep> {
        Skep::trial(name, services, Trial::default())
    }

    /// With other programs than an agent's.
    pub(crate) fn trial(name: &str, services: u32, trial: Trial) -> Result<Skep> {
        Skep::on("skep", Machine::open(name, &[NODE_ADDR.into()], trial)?, name, services, |_| ())
    }

    /// With what `add` applies beside the cluster's objects.
    pub(crate) fn with_objects(name: &str, services: u32, add: impl FnOnce(&mut Index)) -> Result<Skep> {
        Skep::on("skep", Machine::new(name)?, name, services, add)
    }

    /// With TCP packets of more than 64 KB.
    pub(crate) fn with_big_tcp(name: &str, services: u32) -> Result<Skep> {
        let machine = Machine::open_with(name, &[NODE_ADDR.into()], Trial::default(), true)?;
        Skep::on("skep-big-tcp", machine, name, services, |_| ())
    }

    fn on(
        subject: &'static str,
        mut machine: Machine,
        name: &str,
        services: u32,
        add: impl FnOnce(&mut Index),
    ) -> Result<Skep> {
        let mut planner = planner(services, Observed::default());
        add(&mut planner.index);
        let mut pods = Vec::new();
        for (number, (pod, addr)) in
            [OPEN, GUARDED].iter().flat_map(|pair| [pair.client, pair.server]).enumerate()
        {
            let netns = world::pod(&format!("{name}-{number}"))?;
            attach(&mut machine, &mut planner, pod, addr, &netns)?;
            pods.push(netns);
        }
        machine.work(|datapath| write(&mut planner, datapath))?;
        Ok(Skep { name: subject, machine, pods, services })
    }

    pub(crate) fn ways(&self) -> Vec<Way> {
        let pairs = [OPEN, GUARDED];
        let ends = self.pods.chunks(2).zip(&pairs).filter_map(|(netns, pair)| match netns {
            [client, server] => Some((client, server, pair)),
            _ => None,
        });
        ends.map(|(client, server, pair)| self.way(client, server, pair)).collect()
    }

    /// To the pod under policy, under a name of its own, by its service or straight to it.
    pub(crate) fn way_to_guarded(&self, name: &'static str, by_service: bool) -> Option<Way> {
        let mut way = self.ways().into_iter().find(|way| way.subject.policy == Some(true))?;
        way.subject = Subject::plain(name);
        if !by_service {
            way.requests = (way.listen, REQUESTS.target).into();
        }
        Some(way)
    }

    fn way(&self, client: &NetNs, server: &NetNs, pair: &Pair) -> Way {
        let subject = Subject { name: self.name, services: Some(self.services), policy: Some(pair.guarded) };
        Way::service(subject, self.machine.place(client), self.machine.place(server), pair)
    }
}

/// What CNI ADD does.
fn attach(
    machine: &mut Machine,
    planner: &mut Planner,
    name: &str,
    addr: Ipv4Addr,
    netns: &NetNs,
) -> Result<()> {
    let interface = machine.work(|datapath| {
        let interface = add_link(datapath, netns, addr)?;
        datapath.attach_pod(interface.ifindex)?;
        Ok(interface)
    })?;
    let PodInterface { ifindex, mac, host_mac } = interface;
    let pod = Pod { ifindex, mac, host_mac, ..Pod::default() };
    record(planner, netns.name(), name, addr, pod)
}

/// As [`attach`], of a pod without an interface.
pub(crate) fn attach_value(planner: &mut Planner, name: &str, addr: Ipv4Addr) -> Result<()> {
    record(planner, name, name, addr, Pod::default())
}

fn record(planner: &mut Planner, sandbox: &str, name: &str, addr: Ipv4Addr, pod: Pod) -> Result<()> {
    let slot = planner.free_slot().context("no free slot")?;
    let owner = Owner { namespace: "default".into(), name: name.into(), uid: String::new() };
    planner.attach(sandbox, &owner, &[addr.into()], Pod { slot, ..pod });
    Ok(())
}

/// The pod's interface, without programs.
pub(crate) fn add_link(datapath: &Datapath, netns: &NetNs, addr: Ipv4Addr) -> Result<PodInterface> {
    let link = PodLink {
        netns: netns.path(),
        ifname: "eth0".to_owned(),
        host_ifname: world::host_side(netns),
        addrs: vec![IpAddr::V4(addr)],
        mtu: 1500,
    };
    Ok(runtime()?.block_on(datapath.add_pod(link))?)
}

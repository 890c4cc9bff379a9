//! The node's agent in a process of its own, and what is asked of it there.
//!
//! Times are from the event or call to the agent's answer or, for endpoints, to the write in the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, MapError};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use skep_abi::{Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_netplan::Owner;
use skep_network::allocations::Allocations;
use skep_network::engine::{Add, Added, Call, Message};
use tokio::sync::oneshot;

use super::Figures;
use super::flows::{self, Datagrams};
use super::objects::{self, policy_message, slice, slice_message, uid};
use super::view::{PodName, Size, View};
use crate::agent::{Agent, Node, resident};
use crate::cluster::networks_policy_of;
use crate::control::folder_bytes;
use crate::placement::come_first;
use crate::skep;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    phase: Phase,
    #[arg(long)]
    pins: PathBuf,
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    quick: bool,
    /// The namespaces of this node's pods
    pods: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Phase {
    Follow,
    Restart,
}

/// Room for the flows, whatever memory the machine has.
const CONNTRACK_MAX: u32 = 262_144;
const PROGRAMMING_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two changes: bursts are not what is measured.
const PAUSE: Duration = Duration::from_millis(5);

/// The process.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let Arguments { phase, pins, cgroup, state, quick, pods } = arguments;
    come_first()?;
    let mut options = skep::options(pins, cgroup);
    options.conntrack_max = CONNTRACK_MAX;
    let node = Node { options, state };
    let view = View::new(Size::new(quick));
    let figures = match phase {
        Phase::Follow => follow(node, &view, &pods)?,
        Phase::Restart => restart(node, &view, &pods)?,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// An agent that starts on a new node, and then follows changes.
fn follow(node: Node, view: &View, pods: &[PathBuf]) -> Result<Figures> {
    let (maps, state) = (skep::maps(&node.options.bpffs), node.state.clone());
    let agent = Agent::start(node)?;
    objects::lists(*view).try_for_each(|message| agent.send(message))?;
    let start = Instant::now();
    agent.listed(PROGRAMMING_TIMEOUT)?;
    let mut figures = Figures::from([("first_sync".to_owned(), vec![millis(start)])]);
    let mut put = |name: &str, values: Vec<f64>| drop(figures.insert(name.to_owned(), values));
    let added: Vec<(f64, Added)> =
        (0..).zip(pods).map(|(n, netns)| add(&agent, &view.local_pod(n), netns)).collect::<Result<_>>()?;
    put("cni_add", added.iter().map(|(took, _)| *took).collect());
    let changes = view.size.changes;
    let here = 2 * view.size.local_namespaces();
    put("policy_elsewhere", change_policies(&agent, changes, here..view.size.policies())?);
    put("policy_here", change_policies(&agent, changes, 0..here)?);
    let (took, memory) = networks(&agent, view, &maps)?;
    put("networks", vec![took]);
    put("networks_memory", vec![memory]);
    let sender = added.first().and_then(|(_, added)| v4(added)).context("the first pod has no address")?;
    flows::fill(&maps, view, sender, view.size.flows)?;
    let churn = datagrams(view, pods, &state, true)?;
    put("endpoint", change_endpoints(&agent, view, &maps)?);
    churn.stop()?;
    put("resident", vec![resident()? as f64 * 1024.0 / 1e6]);
    put("map_memory", vec![folder_bytes(&maps)? as f64 / 1e6]);
    agent.end()?;
    Ok(figures)
}

/// An agent that adopts what the one before left, while pods send.
fn restart(node: Node, view: &View, pods: &[PathBuf]) -> Result<Figures> {
    // What the API server would send is ready before the clock starts.
    let lists: Vec<Message> = objects::lists(*view).collect();
    let datagrams = datagrams(view, pods, &node.state, false)?;
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let agent = Agent::start(node)?;
    barrier(&agent)?;
    let opened = millis(start);
    let listing = Instant::now();
    lists.into_iter().try_for_each(|message| agent.send(message))?;
    let listed = millis(listing);
    agent.listed(PROGRAMMING_TIMEOUT)?;
    let took = millis(start);
    let (sent, received) = datagrams.stop()?;
    ensure!(sent > 0, "nothing was sent");
    agent.end()?;
    Ok(Figures::from([
        ("restart_open".to_owned(), vec![opened]),
        ("restart_lists".to_owned(), vec![listed]),
        ("restart".to_owned(), vec![took]),
        ("restart_lost".to_owned(), vec![sent.saturating_sub(received) as f64]),
    ]))
}

/// From the first pod to another of its namespace, to which policies allow them.
fn datagrams(view: &View, pods: &[PathBuf], state: &Path, churn: bool) -> Result<Datagrams> {
    let number = view.size.local_namespaces();
    let PodName { namespace, name, .. } = view.local_pod(number);
    let allocations = Allocations::load(state)?;
    let mut of_receiver = allocations.iter().filter(|a| a.namespace == namespace && a.name == name);
    let addr = of_receiver.find_map(|allocation| allocation.addrs.first());
    let Some(IpAddr::V4(addr)) = addr else { bail!("{namespace}/{name} has no IPv4 address: {addr:?}") };
    let (sender, receiver) = (pods.first().context("no pods")?, pods.get(number as usize).context("no pod")?);
    Ok(Datagrams::start(sender.clone(), receiver.clone(), *addr, churn))
}

fn v4(added: &Added) -> Option<Ipv4Addr> {
    added.addrs.iter().find_map(|addr| if let IpAddr::V4(addr) = addr { Some(*addr) } else { None })
}

/// Milliseconds of a CNI ADD, interface and all.
fn add(agent: &Agent, pod: &PodName, netns: &Path) -> Result<(f64, Added)> {
    let PodName { namespace, name, .. } = pod;
    let owner = Owner { namespace: namespace.clone(), name: name.clone(), uid: uid(namespace, name) };
    let add = Add {
        container_id: format!("sandbox-{namespace}-{name}"),
        ifname: "eth0".to_owned(),
        netns: netns.to_owned(),
        owner,
        mtu: 0,
        chained: None,
    };
    std::thread::sleep(PAUSE);
    let (answer, answered) = oneshot::channel();
    let start = Instant::now();
    agent.send(Message::Cni(Call::Add(add, answer)))?;
    let added = answered.blocking_recv()??;
    Ok((millis(start), added))
}

/// Milliseconds of each change of one of these policies, until the agent is in step again.
fn change_policies(agent: &Agent, count: u32, among: Range<u32>) -> Result<Vec<f64>> {
    let all = among.end - among.start;
    // Each policy has another content than before.
    let changes = (0..count).map(|n| objects::policy(among.start + n * 7 % all, 1 + n / all));
    changes.map(|policy| follow_policy(agent, policy)).collect()
}

fn follow_policy(agent: &Agent, policy: NetworkPolicy) -> Result<f64> {
    std::thread::sleep(PAUSE);
    barrier(agent)?;
    let message = policy_message(policy);
    let start = Instant::now();
    agent.send(message)?;
    barrier(agent)?;
    Ok(millis(start))
}

/// Until everything that was sent before is in the kernel. A call ends the engine's window; the next one is answered after the
/// step that follows.
fn barrier(agent: &Agent) -> Result<()> {
    for _ in 0..2 {
        let (answer, answered) = oneshot::channel();
        agent.send(Message::Cni(Call::Status(answer)))?;
        // Before the first lists the network is not ready, which is an answer too.
        let _ = answered.blocking_recv()?;
    }
    Ok(())
}

/// A policy with many networks: milliseconds, and what the maps take more, in MB.
fn networks(agent: &Agent, view: &View, maps: &Path) -> Result<(f64, f64)> {
    let pod = view.local_pod(0);
    barrier(agent)?;
    let before = folder_bytes(maps)?;
    let app = format!("app-{}", pod.app);
    let took = follow_policy(agent, networks_policy_of(&pod.namespace, &app, view.size.networks))?;
    let more = folder_bytes(maps)?.saturating_sub(before);
    let key = format!("{}/to-networks", pod.namespace);
    agent.send(Message::index(move |index| index.delete_policy(&key)))?;
    barrier(agent)?;
    Ok((took, more as f64 / 1e6))
}

/// Changes of TCP services, each beside one of a UDP service, which strands flows.
fn change_endpoints(agent: &Agent, view: &View, maps: &Path) -> Result<Vec<f64>> {
    let kernel = MapData::from_pin(maps.join("SERVICES"))?;
    let kernel: HashMap<MapData, ServiceKey, ServiceValue> = HashMap::try_from(Map::from_map_data(kernel)?)?;
    let number = |n: u32, digit: u32| n * 7 * 10 % (view.size.services / 10 * 10) + digit;
    let changes = (0..view.size.changes).map(|n| {
        std::thread::sleep(PAUSE);
        agent.send(slice_message(slice(view, number(n, 9), 1 + n)))?;
        std::thread::sleep(PAUSE);
        change_endpoint(agent, slice(view, number(n, 3), 1 + n), View::service_ip(number(n, 3)), &kernel)
    });
    changes.collect()
}

/// Milliseconds until the frontend leads to other endpoints.
fn change_endpoint(
    agent: &Agent,
    slice: k8s_openapi::api::discovery::v1::EndpointSlice,
    ip: Ipv4Addr,
    kernel: &HashMap<MapData, ServiceKey, ServiceValue>,
) -> Result<f64> {
    let (addr, port) = (IpAddr::V4(ip).into(), Be16::new(80));
    let key = ServiceKey { addr, port, proto: Proto::TCP, scope: Scope::INTERNAL };
    let before = kernel.get(&key, 0).with_context(|| format!("no service at {ip}"))?.set;
    let message = slice_message(slice);
    let start = Instant::now();
    agent.send(message)?;
    // An element that is replaced this very moment may be found in neither state; then it is no longer the old one.
    let is_old = || match kernel.get(&key, 0) {
        Err(MapError::KeyNotFound) => Ok(false),
        found => found.map(|value| value.set == before),
    };
    while is_old()? {
        ensure!(start.elapsed() < PROGRAMMING_TIMEOUT, "the change of {ip} is not in the kernel");
        std::thread::yield_now();
    }
    Ok(millis(start))
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

//! A node's network agent as a process of its own: what it holds in memory, and how soon a change is in the kernel.
//!
//! The engine, its planner and its datapath are the agent's; what the watches would tell comes from the benchmark.

use std::path::PathBuf;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, MapError};
use serde::{Deserialize, Serialize};
use skep_abi::{Be16, Proto, Scope, ServiceKey, ServiceValue};
use skep_datapath::Options;
use skep_network::engine::{Engine, Message};
use skep_network::{KINDS, NetworkConfig, NetworkState};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use xtask::progress::Step;

use crate::cluster::{self, NODE, REQUESTS, Service};
use crate::placement::{come_first, own};
use crate::samples::Samples;
use crate::skep::{self, Machine, runtime};
use crate::world::Subject;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    pins: PathBuf,
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    services: u32,
    #[arg(long)]
    changes: u32,
}

#[derive(Serialize, Deserialize)]
struct Figures {
    /// KiB, the more of after the start and after the changes.
    resident: u64,
    /// Milliseconds from a change of an EndpointSlice until its write was seen in the kernel.
    changes: Vec<f64>,
}

const PROGRAMMING_TIMEOUT: Duration = Duration::from_secs(60);

/// `agent_rss`, `endpoint_change` and its `endpoint_change_p99`.
pub(crate) fn measure(services: u32, changes: u32, rounds: u32, samples: &mut Samples) -> Result<()> {
    let subject = Subject { name: "skep", services: Some(services), policy: None };
    let step = Step::new("agent");
    for _ in 0..rounds {
        let machine = Machine::bare("nb-agent")?;
        let state = tempfile::tempdir()?;
        let mut command = machine.node.command(own()?);
        command.arg("agent").arg("--pins").arg(machine.pins()?).arg("--cgroup").arg(machine.cgroup.path());
        command.arg("--state").arg(state.path()).args(["--services", &services.to_string()]);
        let output = command.args(["--changes", &changes.to_string()]).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("the agent: {}", String::from_utf8_lossy(&output.stderr));
        }
        let Figures { resident, mut changes } = serde_json::from_slice(&output.stdout)?;
        samples.put("agent_rss", "MB", subject, resident as f64 * 1024.0 / 1e6);
        changes.sort_by(f64::total_cmp);
        let at = |part: f64| changes.get(((changes.len() - 1) as f64 * part) as usize).copied();
        samples.put("endpoint_change", "ms", subject, at(0.5).context("no change")?);
        samples.put("endpoint_change_p99", "ms", subject, at(0.99).context("no change")?);
    }
    step.done("measured");
    Ok(())
}

/// The process.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let Arguments { pins, cgroup, state, services, changes } = arguments;
    come_first()?;
    let agent = Agent::start(Node { options: skep::options(pins.clone(), cgroup), state })?;
    agent.list(services)?;
    let kernel = skep::maps(&pins).join("SERVICES");
    let kernel: HashMap<MapData, ServiceKey, ServiceValue> =
        HashMap::try_from(Map::from_map_data(MapData::from_pin(&kernel)?)?)?;
    let before = resident()?;
    let numbers = (0..changes).map(|round| (round, 3 + round * 7 % services.saturating_sub(3).max(1)));
    let changes =
        numbers.map(|(round, number)| agent.change(number, round, &kernel)).collect::<Result<Vec<_>>>()?;
    let figures = Figures { resident: before.max(resident()?), changes };
    agent.end()?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// What an agent is started with.
pub(crate) struct Node {
    pub(crate) options: Options,
    /// The folder of its allocations.
    pub(crate) state: PathBuf,
}

/// The engine on a thread of its own, as an agent runs it.
pub(crate) struct Agent {
    to: mpsc::Sender<Message>,
    state: watch::Receiver<NetworkState>,
    stop: CancellationToken,
    thread: JoinHandle<Result<()>>,
}

impl Agent {
    pub(crate) fn start(node: Node) -> Result<Agent> {
        let Node { options, state: folder } = node;
        let config = NetworkConfig::new(NODE, folder.join("cni.sock"), folder);
        let (to, messages) = mpsc::channel(1024);
        let (state_in, state) = watch::channel(NetworkState::NotReady("starting".into()));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || -> Result<()> {
            runtime()?.block_on(async move {
                let mut engine = Engine::open(config, skep::open(options).await?).await?;
                engine.run(messages, state_in, stopped).await;
                Ok(())
            })
        });
        Ok(Agent { to, state, stop, thread })
    }

    pub(crate) fn send(&self, message: Message) -> Result<()> {
        self.to.blocking_send(message).ok().context("the engine has ended")
    }

    /// What the first lists tell, object by object as the watches do.
    fn list(&self, services: u32) -> Result<()> {
        self.send(Message::index(|index| cluster::apply(index, 0)))?;
        for service in cluster::services(services) {
            let (object, slice) = (service.object(), service.slice());
            self.send(Message::index(move |index| index.apply_service(&object)))?;
            self.send(Message::index(move |index| index.apply_slice(&slice)))?;
        }
        self.listed(PROGRAMMING_TIMEOUT)
    }

    /// Says that all lists are complete, and waits until everything is in the kernel.
    pub(crate) fn listed(&self, timeout: Duration) -> Result<()> {
        (0..KINDS).try_for_each(|_| self.send(Message::Listed))?;
        let mut state = self.state.clone();
        let ready = state.wait_for(|state| *state == NetworkState::Ready);
        runtime()?.block_on(async { tokio::time::timeout(timeout, ready).await })??;
        Ok(())
    }

    /// Gives a service other endpoints; milliseconds until its frontend leads to them.
    fn change(
        &self,
        number: u32,
        round: u32,
        kernel: &HashMap<MapData, ServiceKey, ServiceValue>,
    ) -> Result<f64> {
        let mut service: Service = cluster::other(number);
        service
            .endpoints
            .iter_mut()
            .for_each(|addr| *addr = cluster::remote_pod(u32::from(*addr) % 1_000 + 1 + round));
        let slice = service.slice();
        let (addr, port) = (std::net::IpAddr::V4(service.ip).into(), Be16::new(REQUESTS.port));
        let key = ServiceKey { addr, port, proto: Proto::TCP, scope: Scope::INTERNAL };
        let before = kernel.get(&key, 0)?.set;
        let start = Instant::now();
        self.send(Message::index(move |index| index.apply_slice(&slice)))?;
        // An element that is replaced this very moment may be found in neither state; then it is no longer the old one.
        let is_old = || match kernel.get(&key, 0) {
            Err(MapError::KeyNotFound) => Ok(false),
            found => found.map(|value| value.set == before),
        };
        while is_old()? {
            ensure!(
                start.elapsed() < PROGRAMMING_TIMEOUT,
                "the change of {} is not in the kernel",
                service.name
            );
            std::thread::yield_now();
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    pub(crate) fn end(self) -> Result<()> {
        self.stop.cancel();
        self.thread.join().ok().context("the engine panicked")?
    }
}

pub(crate) fn resident() -> Result<u64> {
    let (resident, _) =
        xtask::cluster::process::usage(std::process::id()).context("no usage of this process")?;
    Ok(resident)
}

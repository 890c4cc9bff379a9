//! A node's network engine on a thread in the node's namespace, fed by the test instead of by watches.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use skep_api::flow_log::{FlowQuery, FlowRecord, Line};
use skep_datapath::{Counters, Datapath, Options, ProgramLogLevel, SocketLb, Timeouts, Uplinks, XdpMode};
use skep_netplan::{Index, Observed};
use skep_network::engine::{Engine, Message};
use skep_network::{FlowLog, FlowLogLevel, KINDS, NetworkConfig, NetworkState, flows};
use skep_tests::bpffs;
use skep_tests::cgroup::Cgroup;
use skep_tests::netns::{NetNs, connect};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) const NODE_ADDR: &str = "10.79.0.1";

/// What outlives an agent.
pub(crate) struct Machine {
    netns: NetNs,
    outside: NetNs,
    pub(crate) cgroup: Cgroup,
    folder: tempfile::TempDir,
}

pub(crate) struct Agent {
    to: mpsc::Sender<Message>,
    state: watch::Receiver<NetworkState>,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<()>>>,
    socket: PathBuf,
    counters: Counters,
    runtime: Runtime,
}

impl Machine {
    pub(crate) fn new(name: &str) -> Result<Machine> {
        let _ = Datapath::remove(&bpffs::folder(name)?);
        let (netns, outside) = (NetNs::new(name)?, NetNs::new(&format!("{name}-out"))?);
        let uplink = (&netns, "up0", &*format!("{NODE_ADDR}/24"));
        connect(uplink, (&outside, "to-node", "10.79.0.254/24"))?;
        let cgroup = Cgroup::new(name)?;
        Ok(Machine { netns, outside, cgroup, folder: tempfile::tempdir()? })
    }

    pub(crate) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// At the other end of the uplink, with the address 10.79.0.254.
    pub(crate) fn outside(&self) -> &NetNs {
        &self.outside
    }

    pub(crate) fn options(&self) -> Result<Options> {
        Ok(Options {
            bpffs: bpffs::folder(self.netns.name())?,
            cgroup: self.cgroup.path().to_owned(),
            uplinks: Uplinks::Routed,
            xdp: XdpMode::Auto,
            node_addrs: vec![NODE_ADDR.parse::<IpAddr>()?],
            overlay: false,
            conntrack_max: 0,
            timeouts: Timeouts::DEFAULT,
            pod_new_flows: 0,
            socket_lb: SocketLb::All,
            service_cidrs: Vec::new(),
            masquerade_exemptions: Vec::new(),
            program_log: ProgramLogLevel::Off,
            big_tcp: false,
        })
    }

    /// Works on a datapath of its own, in the node's namespace.
    pub(crate) fn datapath<T: Send>(
        &self,
        work: impl FnOnce(&mut Datapath) -> Result<T> + Send,
    ) -> Result<T> {
        let options = self.options()?;
        self.netns.run(move || work(&mut runtime()?.block_on(Datapath::open(options))?))?
    }

    pub(crate) fn observed(&self) -> Result<Observed> {
        self.datapath(|datapath| Ok(datapath.observed()?))
    }

    pub(crate) fn start(&self) -> Result<Agent> {
        let socket = self.folder.path().join("cni.sock");
        let mut config = NetworkConfig::new(self.netns.name(), socket.clone(), self.folder.path().to_owned());
        let (options, path) = (self.options()?, self.netns.path());
        let (to, messages) = mpsc::channel(256);
        let (state_in, state) = watch::channel(NetworkState::NotReady("starting".into()));
        let stop = CancellationToken::new();
        let (sender, stopped) = (to.clone(), stop.clone());
        let (flows_socket, node) = (self.flows_socket(), config.node.clone());
        let (counters_in, counters) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || -> Result<()> {
            skep_tests::netns::enter(&path)?;
            runtime()?.block_on(async move {
                let listener = skep_network::cni::listen(&config.cni_socket)?;
                let mut datapath = Datapath::open(options).await?;
                config.node_addrs = datapath.links().addrs.iter().copied().collect();
                counters_in.send(datapath.counters()?)?;
                let (events, log) =
                    (datapath.flows()?.context("the events are read already")?, FlowLog::default());
                let reading = flows::serve(skep_network::cni::listen(&flows_socket)?, log.clone());
                let links = skep_network::watch_links(datapath.watch_links()?, sender.clone());
                let filling = flows::run(node, events, log, FlowLogLevel::Drops, sender.clone());
                let mut engine = Engine::open(config, datapath).await?;
                tokio::select! {
                    () = filling => bail!("the flow log has ended"),
                    () = links => bail!("the engine takes no links"),
                    () = reading => bail!("no agent serves the flow log"),
                    () = engine.run(messages, state_in, stopped.clone()) => Ok(()),
                    served = skep_network::cni::serve(listener, sender, stopped) => Ok(served?),
                }
            })
        });
        let Ok(counters) = counters.recv() else {
            thread.join().map_err(|_| anyhow!("the agent panicked"))??;
            bail!("the agent ended");
        };
        Ok(Agent { to, state, stop, thread: Some(thread), socket, counters, runtime: runtime()? })
    }

    /// Where the flow log is read.
    pub(crate) fn flows_socket(&self) -> PathBuf {
        self.folder.path().join("flows.sock")
    }

    /// What the flow log remembers.
    pub(crate) fn past(&self, query: &FlowQuery) -> Result<Vec<FlowRecord>> {
        let mut stream = UnixStream::connect(self.flows_socket())?;
        writeln!(stream, "{query}")?;
        let mut records = Vec::new();
        for line in BufReader::new(stream).lines() {
            if let Line::Flow(record) = serde_json::from_str(&line?)? {
                records.push(*record);
            }
        }
        Ok(records)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(folder) = bpffs::folder(self.netns.name()) {
            let _ = Datapath::remove(&folder);
        }
    }
}

impl Agent {
    pub(crate) fn index(&self, change: impl FnOnce(&mut Index) + Send + 'static) -> Result<()> {
        self.to.blocking_send(Message::index(change)).ok().context("the engine has ended")
    }

    /// The end of all lists.
    pub(crate) fn sync(&mut self) -> Result<()> {
        for _ in 0..KINDS {
            self.to.blocking_send(Message::Listed).ok().context("the engine has ended")?;
        }
        let Agent { runtime, state, .. } = self;
        let ready = state.wait_for(|state| *state == NetworkState::Ready);
        runtime
            .block_on(async { tokio::time::timeout(std::time::Duration::from_secs(10), ready).await })??;
        Ok(())
    }

    /// The programs' counters.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The plugin's call, as containerd makes it.
    pub(crate) fn cni(&self, command: &str, pod: &str, netns: &NetNs) -> Result<Value> {
        self.runtime.block_on(call_plugin(&self.socket, command, pod, netns))
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.stop.cancel();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => bail!("the engine panicked"),
        }
    }
}

/// A call of the plugin that reaches the agent at `socket`.
pub(crate) async fn call_plugin(socket: &Path, command: &str, pod: &str, netns: &NetNs) -> Result<Value> {
    let config = json!({"cniVersion": "1.0.0", "name": "skep", "type": "skep-cni", "agentSocket": socket});
    let environment = skep_cni::Environment {
        command: Some(command.into()),
        container_id: Some(format!("sandbox-{pod}")),
        netns: Some(netns.path().display().to_string()),
        ifname: Some("eth0".into()),
        args: Some(format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}")),
    };
    let outcome = skep_cni::run(&environment, config.to_string().as_bytes()).await;
    match outcome.failed {
        true => bail!("{command} {pod}: {:?}", outcome.stdout),
        false => Ok(outcome.stdout.unwrap_or_default()),
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Of the calling thread's own, since the thread is what lives in a namespace.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

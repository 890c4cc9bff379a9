//! What the node, its pods and their containers use.
//!
//! In: the pods as their workers see them, cgroup files, /proc; the runtime's own statistics for a container whose cgroup
//! this process cannot see. Out: [`Snapshot`]s. Samples are taken while somebody asks for them: an idle node takes none.

pub(crate) mod cgroup;
mod hierarchy;
pub(crate) mod machine;
pub(crate) mod network;
mod running;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::NodeContext;
use crate::cri::{Cri, api};
use cgroup::{Memory, Usage};
pub(crate) use hierarchy::Folders;
use hierarchy::Hierarchies;
use machine::Totals;
use running::RunningContainer;
pub(crate) use window::CpuRate;

/// Between two samples while somebody asks.
const INTERVAL: Duration = Duration::from_secs(10);
/// An answer is not older.
const MAX_AGE: Duration = Duration::from_secs(15);
/// The first question takes two samples in this distance.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// Samples are taken for so long after the last question.
const ASKED_FOR: Duration = Duration::from_secs(300);

/// What was in use at one time.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) node: Sample,
    pub(crate) totals: Totals,
    pub(crate) pods: Vec<PodSample>,
    /// Some container could not be measured.
    pub(crate) incomplete: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) usage: Usage,
    pub(crate) rate: Option<CpuRate>,
}

#[derive(Debug, Clone)]
pub(crate) struct PodSample {
    pub(crate) pod: Pod,
    pub(crate) containers: Vec<ContainerSample>,
}

#[derive(Debug, Clone)]
pub(crate) struct ContainerSample {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) sample: Sample,
    /// `None`: only the runtime knows.
    pub(crate) group: Option<Arc<Group>>,
}

/// Where a container is found on the machine.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) pid: u32,
    pub(crate) folders: Folders,
}

/// Takes samples, and keeps the last ones.
pub(crate) struct Stats {
    hierarchies: Hierarchies,
    state: Mutex<State>,
    /// When somebody asked last.
    asked: watch::Sender<Instant>,
}

#[derive(Default)]
struct State {
    latest: Option<(Instant, Arc<Snapshot>)>,
    /// Of the machine, and by container id.
    node: Option<Usage>,
    containers: HashMap<String, Usage>,
    groups: HashMap<String, Option<Arc<Group>>>,
}

impl Stats {
    pub(crate) fn new() -> Stats {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Stats {
            hierarchies: Hierarchies::parse(&mounts),
            state: Mutex::default(),
            asked: watch::Sender::new(Instant::now()),
        }
    }

    /// What is in use, as of a moment ago. The first call in a while takes a second, since a rate needs two samples.
    pub(crate) async fn snapshot(&self, context: &NodeContext) -> Arc<Snapshot> {
        self.asked.send_replace(Instant::now());
        let mut state = self.state.lock().await;
        if let Some((at, latest)) = &state.latest
            && at.elapsed() < MAX_AGE
        {
            return latest.clone();
        }
        let is_recent = |usage: &Usage| Timestamp::now().duration_since(usage.at).as_secs() < 60;
        if !state.node.as_ref().is_some_and(is_recent) {
            self.sample(context, &mut state).await;
            tokio::time::sleep(FIRST_WINDOW).await;
        }
        self.sample(context, &mut state).await
    }

    /// Takes samples until `stop`, while somebody asks.
    pub(crate) async fn run(context: Arc<NodeContext>, stop: CancellationToken) {
        let stats = &context.stats;
        let mut asked = stats.asked.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = asked.changed() => if changed.is_err() { return },
            }
            while asked.borrow().elapsed() < ASKED_FOR {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
                let mut state = stats.state.lock().await;
                stats.sample(&context, &mut state).await;
            }
        }
    }

    async fn sample(&self, context: &NodeContext, state: &mut State) -> Arc<Snapshot> {
        let running = running::containers(&context.pods());
        self.find(&context.cri, state, &running).await;
        let unseen =
            running.iter().any(|container| !matches!(state.groups.get(&container.id), Some(Some(_))));
        let of_runtime = if unseen { runtime_usage(&context.cri).await } else { HashMap::new() };
        let groups: HashMap<String, Arc<Group>> =
            state.groups.iter().filter_map(|(id, group)| Some((id.clone(), group.clone()?))).collect();
        let roots = self.hierarchies.roots();
        let read = tokio::task::spawn_blocking(move || {
            let now = Timestamp::now();
            let of_group = |(id, group): (String, Arc<Group>)| {
                let usage = Usage::read(&group.folders, now);
                (id, usage)
            };
            let usages: HashMap<String, Option<Usage>> = groups.into_iter().map(of_group).collect();
            (usages, machine::usage(&roots, now))
        });
        let Ok((usages, (node, totals))) = read.await else {
            // The runtime of this process ends.
            return Arc::new(Snapshot::empty());
        };
        let before = std::mem::take(&mut state.containers);
        let node_sample =
            Sample { usage: node, rate: CpuRate::between(state.node.as_ref(), machine::boot_time(), &node) };
        let mut snapshot = Snapshot { node: node_sample, totals, pods: Vec::new(), incomplete: false };
        for container in running {
            let id = container.id.as_str();
            let usage = usages.get(id).copied().flatten().or_else(|| of_runtime.get(id).copied());
            let Some(usage) = usage else {
                // It ended, or is replaced: its cgroup is looked for again.
                state.groups.remove(id);
                snapshot.incomplete = true;
                continue;
            };
            let rate = CpuRate::between(before.get(id), container.started, &usage);
            state.containers.insert(container.id.clone(), usage);
            let group = state.groups.get(id).cloned().flatten();
            snapshot.add(container, Sample { usage, rate }, group);
        }
        state.node = Some(node);
        let snapshot = Arc::new(snapshot);
        state.latest = Some((Instant::now(), snapshot.clone()));
        snapshot
    }

    /// Finds the cgroups of containers that are new, and forgets those that ended.
    async fn find(&self, cri: &Cri, state: &mut State, running: &[RunningContainer]) {
        let mut known = std::mem::take(&mut state.groups);
        for container in running {
            let group = match known.remove(&container.id).flatten() {
                Some(group) => Some(group),
                None => self.group_of(cri, &container.id).await.map(Arc::new),
            };
            state.groups.insert(container.id.clone(), group);
        }
    }

    async fn group_of(&self, cri: &Cri, id: &str) -> Option<Group> {
        let pid = match cri.container_pid(id).await {
            Ok(pid) => pid?,
            Err(error) => {
                tracing::debug!(id, %error, "look for the container's process failed");
                return None;
            }
        };
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let folders = self.hierarchies.folders_of(&cgroups);
        Usage::read(&folders, Timestamp::now()).map(|_| Group { pid, folders })
    }
}

impl Snapshot {
    fn empty() -> Snapshot {
        let usage = Usage { at: Timestamp::now(), cpu: 0, memory: Memory::default() };
        Snapshot {
            node: Sample { usage, rate: None },
            totals: Totals::default(),
            pods: Vec::new(),
            incomplete: true,
        }
    }

    fn add(&mut self, container: RunningContainer, sample: Sample, group: Option<Arc<Group>>) {
        let RunningContainer { pod, name, id, image, started } = container;
        let of_pod = self.pods.last().is_some_and(|last| last.pod.metadata.uid == pod.metadata.uid);
        if !of_pod {
            self.pods.push(PodSample { pod, containers: Vec::new() });
        }
        if let Some(last) = self.pods.last_mut() {
            last.containers.push(ContainerSample { name, id, image, started, sample, group });
        }
    }
}

impl PodSample {
    /// The sums of the containers; the rate is known if each has one.
    pub(crate) fn sum(&self) -> Option<Sample> {
        let mut samples = self.containers.iter().map(|container| container.sample);
        let mut sum = samples.next()?;
        for Sample { usage, rate } in samples {
            sum.usage.cpu = sum.usage.cpu.saturating_add(usage.cpu);
            sum.usage.memory = sum.usage.memory.plus(&usage.memory);
            sum.rate = sum.rate.zip(rate).map(|(a, b)| CpuRate {
                nano_cores: a.nano_cores.saturating_add(b.nano_cores),
                window: a.window.min(b.window),
            });
        }
        Some(sum)
    }

    /// A process in the pod's network namespace.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.containers.iter().find_map(|container| Some(container.group.as_ref()?.pid))
    }

    /// Whether the pod has a network of its own.
    pub(crate) fn has_network(&self) -> bool {
        self.pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true))
    }
}

impl Memory {
    fn plus(&self, other: &Memory) -> Memory {
        Memory {
            usage: self.usage.saturating_add(other.usage),
            working_set: self.working_set.saturating_add(other.working_set),
            rss: self.rss.saturating_add(other.rss),
            cache: self.cache.saturating_add(other.cache),
            mapped_file: self.mapped_file.saturating_add(other.mapped_file),
            active_file: self.active_file.saturating_add(other.active_file),
            inactive_file: self.inactive_file.saturating_add(other.inactive_file),
            swap: self.swap.saturating_add(other.swap),
            page_faults: self.page_faults.saturating_add(other.page_faults),
            major_page_faults: self.major_page_faults.saturating_add(other.major_page_faults),
        }
    }
}

/// What the runtime says that its containers use, by id.
async fn runtime_usage(cri: &Cri) -> HashMap<String, Usage> {
    let stats = match cri.container_stats().await {
        Ok(stats) => stats,
        Err(error) => {
            tracing::warn!(%error, "read container statistics failed");
            return HashMap::new();
        }
    };
    stats.into_iter().filter_map(of_runtime).collect()
}

fn of_runtime(stat: api::ContainerStats) -> Option<(String, Usage)> {
    let (cpu, memory) = (stat.cpu?, stat.memory?);
    let value = |value: Option<api::UInt64Value>| value.map_or(0, |value| value.value);
    let working_set = value(memory.working_set_bytes);
    let memory = Memory {
        usage: value(memory.usage_bytes).max(working_set),
        working_set,
        rss: value(memory.rss_bytes),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        ..Memory::default()
    };
    let at = Timestamp::from_nanosecond(cpu.timestamp.into()).ok()?;
    Some((stat.attributes?.id, Usage { at, cpu: value(cpu.usage_core_nano_seconds), memory }))
}

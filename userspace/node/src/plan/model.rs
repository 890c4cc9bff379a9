//! The data of the plan: a pod's sandboxes and containers, the agent's memory of it, and the plan's actions.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{self as core, Pod, PodStatus};

use super::restart::Backoff;
use crate::allocation::Deferral;
use crate::resources::Cgroup;

/// A sandbox as the runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created: Timestamp,
    /// Empty for a sandbox in the host's network.
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
}

/// A container as the runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    pub sandbox: String,
    pub image: String,
    pub image_id: String,
    pub created: Timestamp,
    pub state: ContainerState,
    /// The image of the spec when it was made; `None` for a container of an older agent.
    pub spec_image: Option<String>,
    /// `None` if the runtime does not say.
    pub cgroup: Option<Cgroup>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running { started: Timestamp },
    Exited(Exit),
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub started: Timestamp,
    pub finished: Timestamp,
    pub code: i32,
    pub reason: String,
    /// The termination message, or the runtime's message.
    pub message: String,
}

impl Container {
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            ContainerState::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

/// Everything that is known of one pod in addition to its API object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// For one name, newest first.
    pub containers: Vec<Container>,
    pub memory: Memory,
}

impl Observed {
    /// The newest container of that name.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).max_by_key(|c| (c.attempt, c.created))
    }

    /// The last container before the newest one that ended.
    pub fn previous_exit(&self, name: &str) -> Option<&Container> {
        let newest = self.newest(name)?;
        self.containers
            .iter()
            .filter(|c| c.name == name && c.id != newest.id && c.exit().is_some())
            .max_by_key(|c| (c.attempt, c.created))
    }

    /// Whether the last exit of that name comes from a change of its spec, so that it says nothing of the pod's end.
    pub fn is_replaced(&self, name: &str) -> bool {
        let replaced = |container: &Container| self.memory.replaced.contains(&container.id);
        self.newest(name).is_some_and(|newest| match newest.exit() {
            Some(_) => replaced(newest),
            None => self.containers.iter().any(|c| c.name == name && replaced(c)),
        })
    }

    pub fn is_running(&self, task: &Task) -> bool {
        self.memory.in_flight.contains_key(task)
    }
}

/// How the node itself ends a pod: phase Failed with this reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    pub reason: String,
    pub message: String,
    /// The longest grace period; `None`: the pod's own.
    pub grace: Option<SignedDuration>,
}

impl Termination {
    /// With the pod's own grace period.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Termination {
        Termination { reason: reason.into(), message: message.into(), grace: None }
    }
}

/// What the agent remembers of a pod between two plans. A restart of the agent loses it; correctness does not depend on
/// it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Actions that were begun and have not ended.
    pub in_flight: BTreeMap<Task, InFlight>,
    /// Restart back-off per container name.
    pub backoff: BTreeMap<String, Backoff>,
    /// The last failed start per container name.
    pub failures: BTreeMap<String, Failure>,
    pub sandbox_failure: Option<Failure>,
    /// Actions that must not begin again before their retry time: they failed, or their effect is still to come.
    pub retries: BTreeMap<Task, Failure>,
    pub volumes: Volumes,
    pub probes: BTreeMap<ProbeKey, super::probe::ProbeState>,
    /// Ids of containers that a probe killed: they restart whatever their exit code.
    pub killed_by_probe: BTreeSet<String>,
    /// Ids of containers that were killed because their spec changed: they restart whatever the restart policy.
    pub replaced: BTreeSet<String>,
    /// What running containers were given, by id; for runtimes that do not say.
    pub cgroups: BTreeMap<String, Cgroup>,
    /// Why the resources of the spec are not granted.
    pub deferral: Option<Deferral>,
    /// The generation of the resize that is being applied.
    pub resizing: Option<i64>,
    /// Ids of containers that an earlier agent started; their postStart hooks have run.
    pub adopted: BTreeSet<String>,
    /// When the agent first saw the pod.
    pub start_time: Option<Timestamp>,
    /// The node itself ended the pod.
    pub failed_by_node: Option<Termination>,
    /// When termination began, and by when it must end.
    pub stopping: Option<Stopping>,
    /// The last status that the API server accepted.
    pub reported: Option<PodStatus>,
    pub cleaned: bool,
    /// The API object is gone: no status is reported any more.
    pub gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping {
    pub since: Timestamp,
    pub deadline: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    pub since: Timestamp,
    /// For a kill: when the container is dead at the latest.
    pub deadline: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Volumes {
    #[default]
    Absent,
    Ready,
    Failed(Failure),
}

/// Why an action failed, and when it is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
    pub delay: SignedDuration,
    /// The image, if its pull failed: such a wait shows a second reason.
    pub image: Option<String>,
}

impl Failure {
    pub fn retry_at(&self) -> Timestamp {
        super::later::later(self.at, self.delay)
    }
}

pub type ProbeKey = (String, ProbeKind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

    pub fn of(self, container: &core::Container) -> Option<&core::Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// One thing to do. The agent performs each in a task of its own, which ends with an [`Outcome`].
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    /// Ensures the image, creates and starts the container, runs postStart.
    Start {
        name: String,
        attempt: u32,
        sandbox: String,
    },
    /// Runs preStop if `pre_stop`, then SIGTERM, and SIGKILL after `grace`.
    Kill {
        name: String,
        id: String,
        grace: SignedDuration,
        pre_stop: bool,
        /// The spec changed: another container takes its place.
        replace: bool,
        message: String,
    },
    /// Changes the cgroup of a running container.
    Resize {
        name: String,
        id: String,
        to: Cgroup,
    },
    Probe {
        name: String,
        id: String,
        kind: ProbeKind,
    },
    StopSandbox {
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    /// Removes the sandbox and every container in it.
    RemoveSandbox {
        id: String,
    },
    /// Unmounts and removes the pod's folders.
    CleanUp,
    /// Deletes the API object with grace 0 and its uid as precondition.
    Delete,
    /// Records an event.
    Note(Note),
}

/// An event about the pod, or about one of its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub container: Option<String>,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// The identity of an action: at most one of each is in flight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    Volumes,
    Sandbox,
    Start(String),
    Kill(String),
    Resize(String),
    Probe(String, ProbeKind),
    StopSandbox(String),
    Remove(String),
    CleanUp,
    Delete,
}

impl Action {
    pub fn task(&self) -> Option<Task> {
        Some(match self {
            Action::PrepareVolumes => Task::Volumes,
            Action::CreateSandbox { .. } => Task::Sandbox,
            Action::Start { name, .. } => Task::Start(name.clone()),
            Action::Kill { id, .. } => Task::Kill(id.clone()),
            Action::Resize { id, .. } => Task::Resize(id.clone()),
            Action::Probe { id, kind, .. } => Task::Probe(id.clone(), *kind),
            Action::StopSandbox { id } => Task::StopSandbox(id.clone()),
            Action::RemoveContainer { id } | Action::RemoveSandbox { id } => Task::Remove(id.clone()),
            Action::CleanUp => Task::CleanUp,
            Action::Delete => Task::Delete,
            Action::Note(_) => return None,
        })
    }
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Done,
    /// A failed start, sandbox, mount or removal.
    Failed {
        reason: String,
        message: String,
        image: Option<String>,
    },
    Probed {
        success: bool,
        output: String,
    },
}

/// The role of a container in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Main,
    Ephemeral,
}

/// A container of the pod's spec.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    pub class: Class,
    pub container: Cow<'a, core::Container>,
}

/// The pod's containers in order: init containers and sidecars as listed, then the main ones, then the ephemeral ones.
pub fn specs(pod: &Pod) -> Vec<Spec<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| Spec {
        class: if container.restart_policy.as_deref() == Some("Always") {
            Class::Sidecar
        } else {
            Class::Init
        },
        container: Cow::Borrowed(container),
    });
    let main = spec.containers.iter().map(|c| Spec { class: Class::Main, container: Cow::Borrowed(c) });
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|c| Spec { class: Class::Ephemeral, container: Cow::Owned(ephemeral_as_container(c)) });
    init.chain(main).chain(ephemeral).collect()
}

fn ephemeral_as_container(from: &core::EphemeralContainer) -> core::Container {
    core::Container {
        name: from.name.clone(),
        image: from.image.clone(),
        command: from.command.clone(),
        args: from.args.clone(),
        env: from.env.clone(),
        env_from: from.env_from.clone(),
        image_pull_policy: from.image_pull_policy.clone(),
        security_context: from.security_context.clone(),
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        termination_message_path: from.termination_message_path.clone(),
        termination_message_policy: from.termination_message_policy.clone(),
        volume_mounts: from.volume_mounts.clone(),
        working_dir: from.working_dir.clone(),
        ..Default::default()
    }
}

//! One task for each pod: it keeps the observed state, plans, and begins the planned actions.
//!
//! In: [`Message`]s, the ends of its own actions. Out: actions, status reports. It sleeps until the API object, the
//! runtime or a mounted object changes, an action ends, or the plan's deadline comes.

mod allocate;
mod image;
mod job;
mod kill;
mod perform;
mod report;
mod start;
mod supervise;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::NodeContext;
use crate::names;
use crate::objects::ObjectKey;
use crate::objects::WatchGuard;
use crate::plan::{self, Action, ContainerState, Observed, Outcome, Plan, Task, Termination, merge_reported};
use crate::volumes::payload;
pub(crate) use allocate::recorded;
use job::Job;
pub(crate) use report::{SendResult, send_status};
pub(crate) use supervise::spawn;
use supervise::{Known, Shared};

/// What a worker receives.
#[derive(Debug)]
pub(crate) enum Message {
    /// The API object as of now.
    Pod(Arc<Pod>),
    /// The API object was deleted.
    Gone,
    /// The pod may have changed in the runtime.
    RuntimeChanged,
    /// This container or sandbox of the pod ended.
    Exited(String),
    /// Exits may have been missed.
    ExitsMissed,
    /// An object that the pod mounts changed.
    ObjectChanged,
    /// The node ends the pod.
    Failed(Termination),
}

/// The agent's handle of a worker.
pub(crate) struct Handle {
    pub(crate) messages: mpsc::UnboundedSender<Message>,
    pub(crate) interest: Arc<Mutex<BTreeSet<ObjectKey>>>,
}

impl Handle {
    pub(crate) fn uses(&self, key: &ObjectKey) -> bool {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

enum Done {
    /// With the time when the volumes that it prepared need it again.
    Action(Box<(Action, Outcome, Option<Timestamp>)>),
    Reported(Box<report::Reported>),
}

struct Worker {
    context: Arc<NodeContext>,
    uid: String,
    /// The API object.
    pod: Arc<Pod>,
    /// The same with the resources that the node granted; what is run.
    granted: Arc<Pod>,
    /// The pod is in the node's ledger.
    admitted: bool,
    /// Changes when resources of the node were given back.
    returns: watch::Receiver<u64>,
    observed: Observed,
    /// The runtime has answered at least once.
    observed_once: bool,
    observe_at: Option<Instant>,
    /// Ids that containerd reported as ended while the CRI may still show them as running, with the next poll interval.
    exits: HashMap<String, Duration>,
    tasks: JoinSet<Done>,
    cancels: HashMap<Task, CancellationToken>,
    reporting: bool,
    report_at: Option<Instant>,
    report_delay: Duration,
    /// When volumes are prepared again: a token is renewed, a failed refresh is repeated.
    refresh_at: Option<Timestamp>,
    /// What the volumes show has changed since their last preparation began.
    volumes_stale: bool,
    /// Keep the watches of the mounted objects alive.
    guards: Vec<Arc<WatchGuard>>,
    shared: Shared,
    /// The status that the agent's other parts have.
    shown: Option<PodStatus>,
}

/// How soon a failed refresh of volumes is repeated.
const REFRESH_RETRY_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// The CRI usually shows an exit within milliseconds. After the longest interval only the agent's relist observes it.
const MIN_EXIT_POLL_INTERVAL: Duration = Duration::from_millis(5);
const MAX_EXIT_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How soon a failed observation of the runtime is repeated.
const OBSERVE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl Worker {
    fn new(context: Arc<NodeContext>, shared: Shared) -> Worker {
        let Known { pod, gone } = shared.known();
        let mut observed = Observed::default();
        observed.memory.gone = gone;
        Worker {
            returns: context.allocations.returns(),
            context,
            uid: names::of(&pod).2,
            granted: pod.clone(),
            pod,
            admitted: false,
            observed,
            observed_once: false,
            observe_at: Some(Instant::now()),
            exits: HashMap::new(),
            tasks: JoinSet::new(),
            cancels: HashMap::new(),
            reporting: false,
            report_at: None,
            report_delay: report::MIN_RETRY_DELAY,
            refresh_at: None,
            volumes_stale: false,
            guards: Vec::new(),
            shared,
            shown: None,
        }
    }

    /// Returns true when the pod is over, false when the agent stops.
    async fn run(mut self, inbox: &mut mpsc::UnboundedReceiver<Message>, stop: CancellationToken) -> bool {
        loop {
            if self.observe_at.is_some_and(|at| at <= Instant::now()) {
                self.observe().await;
            }
            let deadline = if self.observed_once {
                self.allocate().await;
                let (now, pod) = (Timestamp::now(), self.granted.clone());
                self.observed.observe_pod(&pod, now);
                let plan = plan::plan(&pod, &self.observed, &self.context.node_view, now);
                self.settle(&plan.status);
                if plan.finished {
                    self.context.show_pod(&self.uid, None);
                    self.context.probes.forget(&self.uid);
                    self.context.set_owned(&self.uid, std::iter::empty());
                    return true;
                }
                self.apply(plan, now)
            } else {
                None
            };
            let wake = [deadline, self.observe_at, self.report_at].into_iter().flatten().min();
            tokio::select! {
                () = stop.cancelled() => return false,
                message = inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return false,
                },
                Some(done) = self.tasks.join_next() => self.finished(done),
                Ok(()) = self.returns.changed(), if self.observed.memory.deferral.is_some() => {}
                () = sleep_until(wake) => {}
            }
            while let Ok(message) = inbox.try_recv() {
                self.take(message);
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => {
                if version(&pod) >= version(&self.pod) {
                    self.resend_if_overruled(&pod);
                    self.refresh_fields(&pod);
                    self.shared.update(|known| known.pod = pod.clone());
                    self.pod = Arc::new(merge_reported(
                        Arc::unwrap_or_clone(pod),
                        self.observed.memory.reported.as_ref(),
                    ));
                }
            }
            Message::Gone => {
                self.observed.memory.gone = true;
                self.shared.update(|known| known.gone = true);
            }
            Message::Failed(termination) => {
                let failed = &mut self.observed.memory.failed_by_node;
                if failed.is_none() && !plan::is_terminal(&self.pod) {
                    let Termination { reason, message, .. } = &termination;
                    self.context.events.pod(&self.pod, None, true, reason, message.clone());
                    *failed = Some(termination);
                }
            }
            Message::RuntimeChanged => self.observe_at = Some(Instant::now()),
            Message::Exited(id) => {
                self.exits.insert(id, MIN_EXIT_POLL_INTERVAL);
                self.observe_at = Some(Instant::now());
            }
            Message::ExitsMissed => {
                // Treat all as ended: the CRI may show an exit later than the first observation.
                let containers = self.observed.containers.iter().filter(|c| c.is_running()).map(|c| &c.id);
                let sandboxes = self.observed.sandboxes.iter().filter(|s| s.ready).map(|s| &s.id);
                self.exits.extend(containers.chain(sandboxes).map(|id| (id.clone(), MIN_EXIT_POLL_INTERVAL)));
                self.observe_at = Some(Instant::now());
            }
            Message::ObjectChanged => {
                self.observed.memory.retry_now(Timestamp::now());
                self.volumes_stale = true;
            }
        }
    }

    /// Reads the pod's sandboxes and containers from the runtime.
    async fn observe(&mut self) {
        match self.context.cri.observe(&self.uid).await {
            Ok((sandboxes, containers)) => {
                let ids = sandboxes.iter().map(|s| s.id.as_str());
                self.context.set_owned(&self.uid, ids.chain(containers.iter().map(|c| c.id.as_str())));
                if !self.observed_once {
                    // An earlier agent started what runs at the first observation, and ran its hooks.
                    let running =
                        containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
                    self.observed.memory.adopted = running.map(|c| c.id.clone()).collect();
                }
                self.observed.sandboxes = sandboxes;
                self.observed.containers = containers;
                self.observed.forget_absent();
                self.observed_once = true;
                self.observe_at = self.next_exit_poll();
            }
            Err(error) => {
                tracing::debug!(uid = self.uid, %error, "observe pod in the runtime failed");
                self.observe_at = Some(Instant::now() + OBSERVE_RETRY_INTERVAL);
            }
        }
    }

    /// When to poll for exits that the CRI does not show yet.
    fn next_exit_poll(&mut self) -> Option<Instant> {
        let alive = |id: &String| {
            self.observed.containers.iter().any(|c| &c.id == id && c.is_running())
                || self.observed.sandboxes.iter().any(|s| &s.id == id && s.ready)
        };
        self.exits.retain(|id, wait| alive(id) && *wait < MAX_EXIT_POLL_INTERVAL);
        let next = self.exits.values().min().copied()?;
        self.exits.values_mut().for_each(|wait| *wait *= 2);
        Some(Instant::now() + next)
    }

    /// Begins the plan's actions and the report of its status. Returns when to plan again.
    fn apply(&mut self, plan: Plan, now: Timestamp) -> Option<Instant> {
        for action in plan.actions {
            self.begin(action, now);
        }
        if self.observed.memory.stopping.is_some() {
            let starting = self.cancels.iter().filter(|(task, _)| matches!(task, Task::Start(_)));
            starting.for_each(|(_, token)| token.cancel());
        }
        self.report(plan.status);
        let due = if self.volumes_stale { Some(now) } else { self.refresh_at };
        let refresh = due.filter(|_| {
            self.observed.memory.stopping.is_none()
                && self.observed.memory.volumes == plan::model::Volumes::Ready
                && !self.observed.is_running(&Task::Volumes)
        });
        if refresh.is_some_and(|at| at <= now) {
            self.begin(Action::PrepareVolumes, now);
        }
        let next = [plan.deadline, refresh].into_iter().flatten().min()?;
        let wait = next.duration_since(Timestamp::now());
        Some(Instant::now() + wait.try_into().unwrap_or(Duration::ZERO))
    }

    fn begin(&mut self, action: Action, now: Timestamp) {
        self.observed.begin(&action, now);
        if action == Action::PrepareVolumes {
            self.follow_objects();
        }
        let cancel = CancellationToken::new();
        if let Some(task) = action.task() {
            self.cancels.insert(task, cancel.clone());
        }
        let newest = self.observed.sandboxes.first();
        let host = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let job = Job {
            context: self.context.clone(),
            pod: self.granted.clone(),
            uid: self.uid.clone(),
            ips: if host {
                self.context.node_view.ips.iter().filter_map(|ip| ip.parse().ok()).collect()
            } else {
                newest.map(|s| s.ips.clone()).unwrap_or_default()
            },
            sandbox_attempt: newest.map_or(0, |s| s.attempt),
            container_ids: self
                .observed
                .containers
                .iter()
                .rev()
                .map(|c| (c.name.clone(), c.id.clone()))
                .collect(),
        };
        self.tasks.spawn(async move {
            let performed = AssertUnwindSafe(perform::perform(&job, &action, &cancel)).catch_unwind().await;
            let (outcome, refresh_at) = performed.unwrap_or_else(|panic| {
                let message = supervise::report(&job.context, &job.pod, "an action of the pod", &*panic);
                (job::failed("Panic", message), None)
            });
            Done::Action(Box::new((action, outcome, refresh_at)))
        });
    }

    /// Before the volumes read their objects: a change from now on is a message, and makes what they read stale.
    fn follow_objects(&mut self) {
        self.volumes_stale = false;
        let keys = payload::references(&self.granted);
        self.guards = self.context.volumes.follow_objects(&keys);
        *self.shared.interest.lock().unwrap_or_else(PoisonError::into_inner) = keys.into_iter().collect();
    }

    fn volumes_prepared(&mut self, done: bool, refresh_at: Option<Timestamp>) {
        let now = Timestamp::now();
        self.refresh_at = if done { refresh_at } else { Some(now + REFRESH_RETRY_INTERVAL) };
        if !done && self.volumes_stale {
            self.observed.memory.retry_now(now);
        }
    }

    fn finished(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Action(ended)) => {
                let (action, outcome, refresh_at) = *ended;
                if let Some(task) = action.task() {
                    self.cancels.remove(&task);
                }
                let pod = self.granted.clone();
                self.observed.finish(&pod, &action, &outcome, Timestamp::now());
                if action == Action::PrepareVolumes {
                    self.volumes_prepared(outcome == Outcome::Done, refresh_at);
                }
                if !matches!(action, Action::Probe { .. } | Action::Note(_) | Action::PrepareVolumes) {
                    self.observe_at = Some(Instant::now());
                }
            }
            Ok(Done::Reported(reported)) => self.reported(*reported),
            Err(error) => {
                // The panic of an action is its outcome: this was a report.
                tracing::error!(uid = self.uid, %error, "report of the pod's status panicked");
                self.context.count_panic();
                self.reporting = false;
                self.report_at = Some(Instant::now() + OBSERVE_RETRY_INTERVAL);
                self.observe_at = Some(Instant::now() + OBSERVE_RETRY_INTERVAL);
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// A substitute for a pod that only the runtime knows, so that the plan stops it in order.
pub(crate) fn orphan(identity: &crate::cri::PodIdentity) -> Pod {
    Pod {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(identity.name.clone()),
            namespace: Some(identity.namespace.clone()),
            uid: Some(identity.uid.clone()),
            ..Default::default()
        },
        spec: Some(k8s_openapi::api::core::v1::PodSpec {
            termination_grace_period_seconds: Some(identity.grace),
            ..Default::default()
        }),
        status: Some(PodStatus::default()),
    }
}

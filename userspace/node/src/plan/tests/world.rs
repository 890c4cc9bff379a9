//! A simulated pod, runtime and clock: actions take time, containers behave as the test says.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};

use crate::plan::model::{ContainerState, Exit};
use crate::plan::*;
use crate::resources::Cgroup;

/// What the next container of a name does.
#[derive(Debug, Clone)]
pub(super) enum Life {
    /// Ends by itself.
    Ends { after: i64, code: i32 },
    /// Runs until SIGTERM, then needs so many seconds.
    Serves { stops_after: i64 },
    /// Cannot be started.
    Fails { reason: &'static str, image: bool },
}

pub(super) struct World {
    pub(super) pod: Pod,
    pub(super) observed: Observed,
    pub(super) now: Timestamp,
    node: NodeView,
    lives: BTreeMap<String, VecDeque<Life>>,
    running: BTreeMap<String, Life>,
    /// Events of the future, each with its time.
    agenda: Vec<(Timestamp, Event)>,
    /// Probe results by container name and kind; true by default.
    pub(super) probes: BTreeMap<(String, ProbeKind), bool>,
    /// Everything that was done, as `12 start main`.
    pub(super) story: Vec<String>,
    began: Timestamp,
    ids: u32,
    pub(super) finished: bool,
    /// How often stopping the sandbox fails before it succeeds.
    pub(super) stop_failures: u32,
    /// Finalizers keep the API object when it is deleted.
    pub(super) held_back: bool,
    /// Statuses reach the API.
    pub(super) api_up: bool,
    pub(super) resize_fails: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Done(Action, Outcome),
    Exit { id: String, code: i32 },
}

impl World {
    pub(super) fn new(spec: Value) -> World {
        let pod =
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec});
        let began = Timestamp::from_second(1_700_000_000).expect("in range");
        World {
            pod: serde_json::from_value(pod).expect("a pod"),
            observed: Observed::default(),
            now: began,
            node: NodeView { ips: vec!["10.0.0.1".into()] },
            lives: BTreeMap::new(),
            running: BTreeMap::new(),
            agenda: Vec::new(),
            probes: BTreeMap::new(),
            story: Vec::new(),
            began,
            ids: 0,
            finished: false,
            stop_failures: 0,
            held_back: false,
            api_up: true,
            resize_fails: false,
        }
    }

    /// What containers of that name do, one after the other; the last behaviour repeats.
    pub(super) fn live(mut self, name: &str, lives: impl IntoIterator<Item = Life>) -> World {
        self.lives.insert(name.to_owned(), lives.into_iter().collect());
        self
    }

    /// Lets `seconds` pass.
    pub(super) fn pass(&mut self, seconds: i64) {
        let until = self.now + SignedDuration::from_secs(seconds);
        loop {
            let deadline = self.step();
            let next = self.agenda.iter().map(|(at, _)| *at).chain(deadline).filter(|at| *at <= until).min();
            let Some(next) = next else { break };
            assert!(next >= self.now, "time does not run backwards");
            self.now = next;
            self.happen();
        }
        self.now = until;
        self.step();
    }

    pub(super) fn delete(&mut self, grace: i64) {
        self.pod.metadata.deletion_timestamp = Some(status::seconds(self.now));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
    }

    /// The node restarts: every process is gone.
    pub(super) fn crash(&mut self) {
        for sandbox in &mut self.observed.sandboxes {
            sandbox.ready = false;
        }
        let ids: Vec<String> =
            self.observed.containers.iter().filter(|c| c.is_running()).map(|c| c.id.clone()).collect();
        for id in ids {
            self.exit(&id, 137);
        }
    }

    pub(super) fn status(&self, name: &str) -> ContainerStatus {
        let status = self.pod.status.clone().unwrap_or_default();
        status::known(&status, name).cloned().unwrap_or_default()
    }

    pub(super) fn waiting(&self, name: &str) -> String {
        self.status(name).state.and_then(|s| s.waiting).and_then(|w| w.reason).unwrap_or_default()
    }

    pub(super) fn phase(&self) -> String {
        self.pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default()
    }

    pub(super) fn condition(&self, kind: &str) -> String {
        let conditions = self.pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.into_iter().find(|c| c.type_ == kind).map(|c| c.status).unwrap_or_default()
    }

    /// The seconds at which the story has this line.
    pub(super) fn times(&self, what: &str) -> Vec<i64> {
        let line = |line: &String| {
            let (at, text) = line.split_once(' ')?;
            (text == what).then(|| at.parse().ok()).flatten()
        };
        self.story.iter().filter_map(line).collect()
    }

    /// The order of the story's lines without their times.
    pub(super) fn order(&self) -> Vec<&str> {
        self.story.iter().filter_map(|line| line.split_once(' ').map(|(_, text)| text)).collect()
    }

    fn record(&mut self, text: String) {
        let at = self.now.duration_since(self.began).as_secs();
        self.story.push(format!("{at} {text}"));
    }

    /// Plans and begins actions until the plan is empty; returns its deadline.
    fn step(&mut self) -> Option<Timestamp> {
        for _ in 0..50 {
            let pod = self.pod.clone();
            self.observed.observe_pod(&pod, self.now);
            let plan = plan(&pod, &self.observed, &self.node, self.now);
            self.finished |= plan.finished;
            let mut quiet = true;
            if self.api_up
                && !self.observed.memory.gone
                && self.observed.memory.reported.as_ref() != Some(&plan.status)
            {
                self.observed.memory.reported = Some(plan.status.clone());
                self.pod = merge_reported(pod, Some(&plan.status));
                quiet = false;
            }
            for action in plan.actions {
                quiet = false;
                self.observed.begin(&action, self.now);
                self.begin(action);
            }
            if quiet {
                return plan.deadline;
            }
        }
        panic!("the plan never comes to rest: {:#?}", self.story);
    }

    fn begin(&mut self, action: Action) {
        let (takes, outcome) = match &action {
            Action::Start { name, attempt, .. } => {
                self.record(format!("start {name}"));
                self.started(name, *attempt)
            }
            Action::CreateSandbox { attempt } => {
                self.record(format!("sandbox {attempt}"));
                (1, Outcome::Done)
            }
            Action::Kill { name, id, grace, .. } => {
                self.record(format!("kill {name} {}", grace.as_secs()));
                let takes = match self.running.get(id) {
                    Some(Life::Serves { stops_after }) => (*stops_after).min(grace.as_secs()),
                    _ => 0,
                };
                (takes, Outcome::Done)
            }
            Action::Probe { name, kind, .. } => {
                let success = *self.probes.get(&(name.clone(), *kind)).unwrap_or(&true);
                (0, Outcome::Probed { success, output: String::new() })
            }
            Action::Resize { name, to, .. } => {
                let Cgroup { cpu_shares, cpu_quota, memory_limit, .. } = to;
                self.record(format!("resize {name} {cpu_shares} {cpu_quota} {memory_limit}"));
                let failed =
                    Outcome::Failed { reason: "no".into(), message: "too small".into(), image: None };
                (1, if self.resize_fails { failed } else { Outcome::Done })
            }
            Action::StopSandbox { .. } => {
                self.record("stop sandbox".into());
                let fails = self.stop_failures > 0;
                self.stop_failures = self.stop_failures.saturating_sub(1);
                let failed = Outcome::Failed { reason: "no".into(), message: "no".into(), image: None };
                (0, if fails { failed } else { Outcome::Done })
            }
            Action::CleanUp => {
                self.record("clean up".into());
                (0, Outcome::Done)
            }
            Action::Delete => {
                self.record("delete".into());
                (0, Outcome::Done)
            }
            Action::Note(note) => return self.record(format!("note {}", note.reason)),
            _ => (0, Outcome::Done),
        };
        self.agenda.push((self.now + SignedDuration::from_secs(takes), Event::Done(action, outcome)));
    }

    /// A fact of the present spec of a container.
    fn spec_of<T>(
        &self,
        name: &str,
        fact: impl Fn(&k8s_openapi::api::core::v1::Container) -> Option<T>,
    ) -> Option<T> {
        specs(&self.pod)
            .iter()
            .find(|spec| spec.container.name == name)
            .and_then(|spec| fact(&spec.container))
    }

    fn started(&mut self, name: &str, attempt: u32) -> (i64, Outcome) {
        let lives = self.lives.entry(name.to_owned()).or_default();
        let life = if lives.len() > 1 { lives.pop_front() } else { lives.front().cloned() };
        let life = life.unwrap_or(Life::Serves { stops_after: 0 });
        if let Life::Fails { reason, image } = life {
            let image = image.then(|| "img".to_owned());
            return (0, Outcome::Failed { reason: reason.into(), message: "no".into(), image });
        }
        self.ids += 1;
        let id = format!("{name}-{}", self.ids);
        if let Life::Ends { after, code } = life {
            self.agenda
                .push((self.now + SignedDuration::from_secs(after), Event::Exit { id: id.clone(), code }));
        }
        self.running.insert(id.clone(), life);
        let sandbox = self.observed.sandboxes.first().map(|s| s.id.clone()).unwrap_or_default();
        let container = Container {
            id,
            name: name.to_owned(),
            attempt,
            sandbox,
            image: "img".into(),
            image_id: "sha256:1".into(),
            created: self.now,
            state: ContainerState::Running { started: self.now },
            spec_image: self.spec_of(name, |container| container.image.clone()),
            cgroup: self.spec_of(name, |container| Some(crate::resources::cgroup(container))),
        };
        self.observed.containers.insert(0, container);
        (0, Outcome::Done)
    }

    fn exit(&mut self, id: &str, code: i32) {
        let now = self.now;
        self.running.remove(id);
        for container in self.observed.containers.iter_mut().filter(|c| c.id == id) {
            if let ContainerState::Running { started } = container.state {
                let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
                container.state = ContainerState::Exited(Exit {
                    started,
                    finished: now,
                    code,
                    reason,
                    message: String::new(),
                });
            }
        }
    }

    /// Lets the due events happen.
    fn happen(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.agenda).into_iter().partition(|(at, _)| *at <= now);
        self.agenda = later;
        let due: Vec<(Timestamp, Event)> = due;
        for (_, event) in due {
            match event {
                Event::Exit { id, code } => self.exit(&id, code),
                Event::Done(action, outcome) => self.done(action, outcome),
            }
        }
    }

    fn done(&mut self, action: Action, outcome: Outcome) {
        match &action {
            Action::CreateSandbox { attempt } => {
                self.ids += 1;
                let sandbox = Sandbox {
                    id: format!("sandbox-{}", self.ids),
                    attempt: *attempt,
                    ready: true,
                    created: self.now,
                    ips: vec!["10.1.0.2".parse().expect("address")],
                    host_network: false,
                };
                self.observed.sandboxes.insert(0, sandbox);
            }
            Action::Kill { id, grace, .. } => {
                let code = match self.running.get(id) {
                    Some(Life::Serves { stops_after }) if *stops_after <= grace.as_secs() => 143,
                    _ => 137,
                };
                self.exit(&id.clone(), code);
            }
            Action::StopSandbox { id } if outcome == Outcome::Done => {
                let dead: Vec<String> = self
                    .observed
                    .containers
                    .iter()
                    .filter(|c| &c.sandbox == id && c.is_running())
                    .map(|c| c.id.clone())
                    .collect();
                dead.iter().for_each(|id| self.exit(id, 137));
                self.observed.sandboxes.iter_mut().filter(|s| &s.id == id).for_each(|s| s.ready = false);
            }
            Action::Resize { id, to, .. } if outcome == Outcome::Done => {
                self.observed
                    .containers
                    .iter_mut()
                    .filter(|c| &c.id == id)
                    .for_each(|c| c.cgroup = Some(*to));
            }
            Action::RemoveContainer { id } => self.observed.containers.retain(|c| &c.id != id),
            Action::RemoveSandbox { id } => {
                self.observed.containers.retain(|c| &c.sandbox != id);
                self.observed.sandboxes.retain(|s| &s.id != id);
            }
            Action::Delete => self.observed.memory.gone = !self.held_back,
            _ => {}
        }
        let pod = self.pod.clone();
        self.observed.finish(&pod, &action, &outcome, self.now);
        self.observed.forget_absent();
    }
}

//! The one runner of all controllers. Watches and outcomes go into [`core::Core`], tasks come out and are performed
//! beside it; the only timer is the earliest one that a reconcile asked for, so an idle cluster costs nothing.

mod collector;
mod core;
mod discovery;
pub(crate) mod events;
mod informer;
mod io;
mod namespaces;
mod perform;
mod queue;
mod quotas;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod stories_sets;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use self::{
    core::{Core, Effect, Outcome},
    events::Recorder,
    informer::Notice,
};
use crate::{
    action::Controller,
    scheduler,
    view::{Change, Kind},
};

/// What a background job came back with.
enum Done {
    Task(Outcome),
    Asked(Vec<Effect>),
}

/// What those hear who share the runner's watches: the garbage collector and whoever empties namespaces.
#[derive(Clone)]
pub(crate) enum Heard {
    Change(Change),
    /// Every kind has been listed.
    Synced,
}

type Listener = mpsc::UnboundedSender<Heard>;

/// Runs controllers, garbage collection, the emptying of namespaces and the counting for quotas until the future is dropped, or until one of them ends.
pub(crate) async fn run(client: Client, controllers: Vec<Box<dyn Controller>>, with_scheduler: bool) {
    let (collector, to_collector) = mpsc::unbounded_channel();
    let (namespaces, to_namespaces) = mpsc::unbounded_channel();
    let (quotas, to_quotas) = mpsc::unbounded_channel();
    let (gone, to_gone) = mpsc::unbounded_channel();
    let mut listeners = vec![collector, namespaces, quotas];
    let to_scheduler = with_scheduler.then(|| {
        let (sender, heard) = mpsc::unbounded_channel();
        listeners.push(sender);
        heard
    });
    let scheduling = async {
        if let Some(heard) = to_scheduler {
            scheduler::run(client.clone(), heard).await;
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = drive(client.clone(), controllers, listeners) => {}
        () = scheduling => {}
        () = collector::run(client.clone(), to_collector, gone) => {}
        () = namespaces::run(client.clone(), to_namespaces) => {}
        () = quotas::run(client.clone(), to_quotas, to_gone) => {}
    }
}

/// Drives the controllers; all jobs end with the future.
async fn drive(client: Client, controllers: Vec<Box<dyn Controller>>, listeners: Vec<Listener>) {
    let (sender, mut notices) = mpsc::channel(1024);
    let mut informers = JoinSet::new();
    for kind in Kind::ALL {
        informers.spawn(informer::watch(client.clone(), *kind, sender.clone()));
    }
    let mut core = Core::new(controllers, Kind::ALL, rand::random());
    let recorder = Arc::new(Recorder::default());
    let mut jobs: JoinSet<Done> = JoinSet::new();
    let say = |heard: Heard| {
        // A closed listener means that this run is ending.
        listeners.iter().for_each(|l| drop(l.send(heard.clone())));
    };
    let tell = |changes: Vec<Change>| changes.into_iter().for_each(|c| say(Heard::Change(c)));
    let mut synced = false;
    loop {
        if core.synced() && !std::mem::replace(&mut synced, true) {
            say(Heard::Synced);
        }
        start(&client, &recorder, &mut core, &mut jobs);
        tokio::select! {
            notice = notices.recv() => match notice {
                Some(notice) => {
                    take_notice(&mut core, notice, &tell);
                    // Take in all that has come: one reconcile may then answer many events.
                    while let Ok(notice) = notices.try_recv() {
                        take_notice(&mut core, notice, &tell);
                    }
                }
                None => return,
            },
            Some(done) = jobs.join_next() => finish(&mut core, done, &tell),
            () = wake_at(core.next_due().filter(|_| core.synced())) => {}
        }
    }
}

fn take_notice(core: &mut Core, notice: Notice, tell: &impl Fn(Vec<Change>)) {
    match notice {
        Notice::Event(kind, event) => tell(core.event(kind, event, Timestamp::now())),
        Notice::Absent(kind) => core.absent(kind),
    }
}

fn start(client: &Client, recorder: &Arc<Recorder>, core: &mut Core, jobs: &mut JoinSet<Done>) {
    if !core.ask.is_empty() {
        let (client, asked) = (client.clone(), std::mem::take(&mut core.ask));
        jobs.spawn(async move { Done::Asked(perform::ask(client, asked).await) });
    }
    while let Some(task) = core.next_task(Timestamp::now()) {
        let (client, recorder) = (client.clone(), recorder.clone());
        tracing::debug!(controller = core.controller_name(task.item.0), key = %task.item.1, actions = task.actions.len());
        jobs.spawn(async move { Done::Task(perform::perform(client, recorder, task).await) });
    }
}

fn finish(core: &mut Core, done: Result<Done, JoinError>, tell: &impl Fn(Vec<Change>)) {
    match done {
        Ok(Done::Task(outcome)) => {
            if let Some(failure) = &outcome.failure {
                let name = core.controller_name(outcome.item.0);
                tracing::info!(controller = name, key = %outcome.item.1, ?failure, "will try again");
            }
            tell(core.finish(outcome, Timestamp::now()));
        }
        Ok(Done::Asked(effects)) => tell(core.absorb(effects, Timestamp::now())),
        Err(error) => tracing::error!(%error, "a job ended without an answer"),
    }
}

/// Sleeps to a time, or for ever.
pub(crate) async fn wake_at(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    let wait = at.duration_since(Timestamp::now());
    let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
    // Timers count in milliseconds: never wake just before the time, only to find nothing due.
    tokio::time::sleep(wait + Duration::from_millis(1)).await;
}

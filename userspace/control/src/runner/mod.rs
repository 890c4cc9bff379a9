//! Runs the controllers. In: the events of a hub subscription. Out: writes. [`core::Core`] decides which key is
//! reconciled when, and [`perform`] makes the requests concurrently. The only timer is the earliest one that a reconcile
//! asked for, so an idle cluster costs nothing.

mod core;
#[cfg(test)]
mod extremes;
mod perform;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod stories;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::task::{JoinError, JoinSet};

use self::core::{Core, Outcome};
use crate::action::{Controller, Failure};
use crate::cache::Change;
use crate::clients::Clients;
use crate::clock::{self, Now};
use crate::events::Recorder;
use crate::health::{Counter, Health};
use crate::hub::{InformerEvent, Subscription};
use crate::timer::sleep_until;

/// How often controllers that wait for kinds say so.
const WAITING_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The name of this part in [`Health`].
const PART: &str = "controllers";

/// Runs the controllers until the future is dropped or the hub is gone.
pub(crate) fn run(
    clients: &Clients,
    subscription: Subscription,
    controllers: Vec<Box<dyn Controller>>,
    health: Arc<Health>,
) -> impl Future<Output = ()> + use<> {
    let clients = controllers.iter().map(|controller| clients.controller(controller.account())).collect();
    drive(clients, subscription, controllers, health)
}

async fn drive(
    clients: Vec<Client>,
    subscription: Subscription,
    controllers: Vec<Box<dyn Controller>>,
    health: Arc<Health>,
) {
    health.unsynced(PART);
    let core = Core::new(controllers, rand::random());
    let mut runner = Runner { clients, subscription, core, recorder: Arc::default(), synced: false, health };
    // Dropped with the future: no task outlives it.
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    let mut waiting = tokio::time::interval(WAITING_LOG_INTERVAL);
    waiting.reset();
    loop {
        runner.start(&mut tasks);
        let due = runner.core.next_due();
        tokio::select! {
            event = runner.subscription.next() => {
                let Some(event) = event else { return };
                runner.accept(event);
                // Route all that has arrived: one reconcile may then answer many events.
                while let Some(event) = runner.subscription.try_next() {
                    runner.accept(event);
                }
            }
            Some(outcome) = tasks.join_next() => runner.finish(outcome),
            () = sleep_until(due) => {}
            _ = waiting.tick(), if !runner.synced => runner.log_waiting(),
        }
    }
}

struct Runner {
    /// Of the controllers, in their order.
    clients: Vec<Client>,
    subscription: Subscription,
    core: Core,
    recorder: Arc<Recorder>,
    /// Whether every controller has what it reads.
    synced: bool,
    health: Arc<Health>,
}

impl Runner {
    fn accept(&mut self, event: InformerEvent) {
        match event {
            InformerEvent::Change(change) => self.route(&[change]),
            InformerEvent::Listed(kind) => {
                self.core.listed(kind);
                if !self.synced && self.core.waiting().is_empty() {
                    self.synced = true;
                    self.health.synced(PART);
                }
            }
        }
    }

    fn route(&mut self, changes: &[Change]) {
        let faults = self.subscription.with_view(|view| self.core.route(changes, view));
        for (controller, error) in faults {
            self.health.count(Counter::Panics, controller);
            tracing::error!(controller, %error, "route change failed; the controller misses it");
        }
    }

    fn log_waiting(&self) {
        for (controller, kinds) in self.core.waiting() {
            tracing::warn!(controller, ?kinds, "controller waits for kinds that cannot be listed");
        }
    }

    /// Starts every task that is ready.
    fn start(&mut self, tasks: &mut JoinSet<Outcome>) {
        // The view is free between two decisions: other parts read it too.
        while let Some(task) = self.subscription.with_view(|view| self.core.next_task(view, Now::read())) {
            let controller = self.core.controller_name(task.item.0);
            tracing::debug!(controller, key = %task.item.1, actions = task.actions.len(), "reconciled");
            let Some(client) = self.clients.get(task.item.0).cloned() else { continue };
            let source = self.core.event_source(task.item.0);
            let events = perform::Events { recorder: self.recorder.clone(), source };
            tasks.spawn(perform::perform(client, events, task));
        }
    }

    fn finish(&mut self, outcome: Result<Outcome, JoinError>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // `perform` returns its panics, and no task is aborted before this runner.
            Err(error) => return tracing::error!(%error, "perform task failed"),
        };
        let controller = self.core.controller_name(outcome.item.0);
        match &outcome.failure {
            Some(Failure::Panicked(error)) => {
                self.health.count(Counter::Panics, controller);
                tracing::error!(controller, key = %outcome.item.1, error, "reconcile panicked; it is retried");
            }
            Some(failure) => {
                tracing::info!(controller, key = %outcome.item.1, ?failure, "reconcile failed; it is retried");
            }
            None => {}
        }
        let now = clock::steady();
        let changes = self.subscription.absorb(outcome.answers, now);
        self.route(&changes);
        self.core.finish(&outcome.item, outcome.failure, outcome.unsure, now);
    }
}

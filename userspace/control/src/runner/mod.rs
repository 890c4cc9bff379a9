//! Runs the controllers. In: the events of a hub subscription. Out: writes. [`core::Core`] decides which key is
//! reconciled when, and [`perform`] makes the requests concurrently. The only timer is the earliest one that a reconcile
//! asked for, so an idle cluster costs nothing.

mod core;
mod perform;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod stories;

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use tokio::task::{JoinError, JoinSet};

use self::core::{Core, Outcome};
use crate::action::Controller;
use crate::events::Recorder;
use crate::hub::{InformerEvent, Subscription};
use crate::timer::sleep_until;

/// Runs the controllers until the future is dropped or the hub is gone.
pub(crate) async fn run(client: Client, subscription: Subscription, controllers: Vec<Box<dyn Controller>>) {
    let core = Core::new(controllers, rand::random());
    let mut runner = Runner { client, subscription, core, recorder: Arc::default(), synced: false };
    // Dropped with the future: no task outlives it.
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    loop {
        runner.start(&mut tasks);
        let due = runner.core.next_due().filter(|_| runner.synced);
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
        }
    }
}

struct Runner {
    client: Client,
    subscription: Subscription,
    core: Core,
    recorder: Arc<Recorder>,
    synced: bool,
}

impl Runner {
    fn accept(&mut self, event: InformerEvent) {
        match event {
            InformerEvent::Change(change) => {
                self.subscription.with_view(|view| self.core.route(&[change], view));
            }
            InformerEvent::Synced => self.synced = true,
        }
    }

    /// Starts every task that is ready. Nothing is decided before every kind was listed.
    fn start(&mut self, tasks: &mut JoinSet<Outcome>) {
        if !self.synced {
            return;
        }
        while let Some(task) = self.subscription.with_view(|view| self.core.next_task(view, Timestamp::now()))
        {
            let controller = self.core.controller_name(task.item.0);
            tracing::debug!(controller, key = %task.item.1, actions = task.actions.len(), "reconciled");
            tasks.spawn(perform::perform(self.client.clone(), self.recorder.clone(), task));
        }
    }

    fn finish(&mut self, outcome: Result<Outcome, JoinError>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return tracing::error!(%error, "perform task failed"),
        };
        if let Some(failure) = &outcome.failure {
            let controller = self.core.controller_name(outcome.item.0);
            tracing::info!(controller, key = %outcome.item.1, ?failure, "reconcile failed; it is retried");
        }
        let now = Timestamp::now();
        let changes = self.subscription.absorb(outcome.answers, now);
        self.subscription.with_view(|view| self.core.route(&changes, view));
        self.core.finish(&outcome.item, outcome.failure, outcome.unsure, now);
    }
}

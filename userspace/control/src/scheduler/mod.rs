//! The scheduler: finds nodes for pods. Deciding is pure ([`Scheduler`], over an incremental [`snapshot`]); [`perform`]
//! writes.
//!
//! In: changes of pods, nodes, namespaces and disruption budgets. Out: bindings; for pods that fit nowhere the condition
//! `PodScheduled`, an event, and the removal of pods of lower priority where that helps. A decided pod holds its room from
//! the decision on, while the binding is in flight.

mod affinity;
mod classes;
mod core;
mod decide;
mod filter;
mod name;
mod perform;
mod preempt;
#[cfg(test)]
mod properties;
mod queue;
mod reason;
mod resources;
mod score;
mod snapshot;
mod spread;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use tokio::task::JoinSet;

use crate::cache::Kind;
use crate::events::Recorder;
use crate::hub::{Hub, InformerEvent, Subscription};
use crate::timer::sleep_until;
use perform::{WriteResult, perform};

pub use core::{Decision, Scheduler};
pub use preempt::Plan;

/// The kinds that the scheduler reads.
const KINDS: &[Kind] = &[Kind::Namespace, Kind::Node, Kind::Pod, Kind::PodDisruptionBudget];

const MAX_ACTIVE_WRITES: usize = 64;

/// Runs the scheduler with its own informers, without the controllers, until the future is dropped. Returns if a part of
/// it ends unexpectedly.
pub async fn run_alone(client: Client) {
    let hub = Hub::new(KINDS);
    let subscription = hub.subscribe();
    tokio::select! {
        () = hub.run(client.clone()) => {}
        () = run(client, subscription) => {}
    }
}

/// Schedules until the future is dropped or the hub is gone.
pub(crate) async fn run(client: Client, mut subscription: Subscription) {
    let recorder = Arc::new(Recorder::default());
    let seed: u64 = rand::random();
    let mut scheduler = Scheduler::default();
    let mut writes: JoinSet<WriteResult> = JoinSet::new();
    let mut synced = false;
    loop {
        while synced && writes.len() < MAX_ACTIVE_WRITES {
            let Some(decision) = scheduler.next(Timestamp::now(), seed) else { break };
            writes.spawn(perform(client.clone(), recorder.clone(), decision));
        }
        let due = scheduler.next_due().filter(|_| synced && writes.len() < MAX_ACTIVE_WRITES);
        tokio::select! {
            event = subscription.next() => {
                let Some(event) = event else { return };
                synced |= accept(&mut scheduler, event);
                // Apply all that has arrived: a decision is as good as what is known.
                while let Some(event) = subscription.try_next() {
                    synced |= accept(&mut scheduler, event);
                }
            }
            Some(written) = writes.join_next() => match written {
                Ok(WriteResult::BindingFailed { key, uid }) => scheduler.binding_failed(&key, &uid, Timestamp::now()),
                Ok(WriteResult::PreemptionFailed { key, uid }) => scheduler.preemption_failed(&key, &uid, Timestamp::now()),
                Ok(WriteResult::Written) => {}
                Err(error) => tracing::error!(%error, "write decision failed"),
            },
            () = sleep_until(due) => {}
        }
    }
}

/// Applies a change. Returns whether the event was `Synced`.
fn accept(scheduler: &mut Scheduler, event: InformerEvent) -> bool {
    match event {
        InformerEvent::Change(change) => scheduler.apply(&change, Timestamp::now()),
        InformerEvent::Synced => return true,
    }
    false
}

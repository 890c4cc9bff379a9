//! The scheduler: finds nodes for pods. Deciding is pure ([`mind`], over an incremental [`snapshot`]); [`perform`] writes.
//!
//! In: the runner's changes of pods, nodes, namespaces and disruption budgets. Out: bindings; for pods that fit nowhere the
//! condition `PodScheduled`, an event, and the removal of lesser pods where that helps. A decided pod holds its room from
//! the decision on, while the binding is on its way.

mod affinity;
mod classes;
mod decide;
mod filter;
mod mind;
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
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::runner::events::Recorder;
use crate::runner::{Heard, wake_at};
use perform::{Done, perform};

pub use mind::{Decision, Mind};
pub use preempt::Plan;

const NAME: &str = "default-scheduler";
/// Writes under way at once.
const MOST_AT_WORK: usize = 64;

/// Schedules until the future is dropped, or the sender is gone.
pub(crate) async fn run(client: Client, mut heard: mpsc::UnboundedReceiver<Heard>) {
    let recorder = Arc::new(Recorder::default());
    let seed: u64 = rand::random();
    let mut mind = Mind::default();
    let mut jobs: JoinSet<Done> = JoinSet::new();
    let mut synced = false;
    loop {
        while synced && jobs.len() < MOST_AT_WORK {
            let Some(decision) = mind.next(Timestamp::now(), seed) else { break };
            jobs.spawn(perform(client.clone(), recorder.clone(), decision));
        }
        let due = mind.queue.next_due().filter(|_| synced && jobs.len() < MOST_AT_WORK);
        tokio::select! {
            told = heard.recv() => {
                let Some(told) = told else { return };
                synced |= take(&mut mind, told);
                // Take in all that has come: a decision is as good as what is known.
                while let Ok(told) = heard.try_recv() {
                    synced |= take(&mut mind, told);
                }
            }
            Some(done) = jobs.join_next() => match done {
                Ok(Done::NotBound { key, uid }) => mind.not_bound(&key, &uid, Timestamp::now()),
                Ok(Done::NotMade { key, uid }) => mind.not_made(&key, &uid, Timestamp::now()),
                Ok(Done::Told) => {}
                Err(error) => tracing::error!(%error, "a binding ended without an answer"),
            },
            () = wake_at(due) => {}
        }
    }
}

/// Whether it was the news that everything has been listed.
fn take(mind: &mut Mind, heard: Heard) -> bool {
    match heard {
        Heard::Change(change) => mind.apply(&change, Timestamp::now()),
        Heard::Synced => return true,
    }
    false
}

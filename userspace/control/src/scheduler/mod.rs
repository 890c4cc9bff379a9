//! The scheduler: finds nodes for pods. Deciding is pure ([`Scheduler`], over an incremental [`snapshot`]); [`perform`]
//! writes.
//!
//! In: changes of pods, nodes, namespaces, disruption budgets, claims and volumes. Out: bindings, and the volumes that they
//! need; for pods that fit nowhere the condition
//! `PodScheduled`, an event, and the removal of pods of lower priority where that helps. A decided pod holds its room from
//! the decision on, while the binding is in flight.

mod affinity;
mod budgets;
mod classes;
mod core;
mod decide;
mod dry_run;
mod filter;
mod name;
mod perform;
mod preempt;
#[cfg(test)]
mod properties;
mod queue;
mod reason;
mod room;
mod score;
mod snapshot;
mod spread;
#[cfg(test)]
mod tests;
mod topology;
#[cfg(test)]
mod volume_tests;
mod volumes;
mod waiting;

use std::sync::Arc;

use kube::Client;
use tokio::task::JoinSet;

use crate::cache::{Key, Kind};
use crate::clock;
use crate::events::Recorder;
use crate::guard::caught;
use crate::health::{Counter, Health};
use crate::hub::{InformerEvent, Subscription};
use crate::timer::sleep_until;
use perform::{WriteResult, perform};

use core::FAULT;
pub use core::{Decision, Scheduler};
pub use preempt::Plan;
pub use volumes::VolumePlan;

/// The kinds that the scheduler reads.
pub(crate) const KINDS: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::PodDisruptionBudget,
    Kind::PersistentVolumeClaim,
    Kind::PersistentVolume,
    Kind::StorageClass,
];

const MAX_ACTIVE_WRITES: usize = 64;
/// The name of this part in [`Health`].
const PART: &str = "scheduler";

/// Schedules until the future is dropped or the hub is gone.
pub(crate) async fn run(client: Client, mut subscription: Subscription, health: Arc<Health>) {
    health.unsynced(PART);
    let recorder = Arc::new(Recorder::default());
    let seed: u64 = rand::random();
    let mut scheduler = Scheduler::default();
    let mut writes: JoinSet<WriteResult> = JoinSet::new();
    let mut sync = Sync { unlisted: KINDS.to_vec(), health };
    loop {
        while sync.is_complete() && writes.len() < MAX_ACTIVE_WRITES {
            let Some(decision) = scheduler.next(clock::steady(), seed) else { break };
            if let Decision::Refuse { pod, reason: FAULT, message, .. } = &decision {
                sync.health.count(Counter::Panics, PART);
                let key = Key::of(&pod.metadata);
                tracing::error!(pod = %key, error = message, "schedule pod failed; it is retried");
            }
            writes.spawn(perform(client.clone(), recorder.clone(), decision));
        }
        let due = scheduler.next_due().filter(|_| sync.is_complete() && writes.len() < MAX_ACTIVE_WRITES);
        tokio::select! {
            event = subscription.next() => {
                let Some(event) = event else { return };
                sync.accept(&mut scheduler, event);
                // Apply all that has arrived: a decision is as good as what is known.
                while let Some(event) = subscription.try_next() {
                    sync.accept(&mut scheduler, event);
                }
            }
            Some(written) = writes.join_next() => match written {
                Ok(WriteResult::BindingFailed { key, uid }) => scheduler.binding_failed(&key, &uid, clock::steady()),
                Ok(WriteResult::PreemptionFailed { key, uid }) => scheduler.preemption_failed(&key, &uid, clock::steady()),
                Ok(WriteResult::VolumesWritten { key, uid, written }) => {
                    scheduler.volumes_written(&key, &uid, written, clock::steady());
                }
                Ok(WriteResult::VolumesFailed { key, uid, written }) => {
                    scheduler.volumes_failed(&key, &uid, written, clock::steady());
                }
                Ok(WriteResult::Written) => {}
                Err(error) => tracing::error!(%error, "write decision failed"),
            },
            () = sleep_until(due) => {}
        }
    }
}

/// What the scheduler waits for.
struct Sync {
    unlisted: Vec<Kind>,
    health: Arc<Health>,
}

impl Sync {
    fn is_complete(&self) -> bool {
        self.unlisted.is_empty()
    }

    fn accept(&mut self, scheduler: &mut Scheduler, event: InformerEvent) {
        match event {
            InformerEvent::Change(change) => {
                if let Err(error) = caught(|| scheduler.apply(&change, clock::steady())) {
                    self.health.count(Counter::Panics, PART);
                    let object = change.object().map(|object| Key::of(object.meta()));
                    tracing::error!(?object, %error, "apply change failed; the scheduler misses it");
                }
            }
            InformerEvent::Listed(kind) => {
                self.unlisted.retain(|unlisted| *unlisted != kind);
                if self.is_complete() {
                    self.health.synced(PART);
                }
            }
        }
    }
}

//! The hub of informers: one watch a kind, shared by every part of this process. In: watch events, and the answers to
//! our own writes. Out: [`InformerEvent`]s, the same for each subscriber.
//!
//! ```text
//! informer (one a kind) ─┐                          ┌─> runner of the controllers
//! confirm                ├─> InformerCache ─ event ─┼─> scheduler
//! answers of the runner ─┘                          └─> garbage collector, namespaces, quotas
//! ```

mod confirm;
mod informer;
mod lenient;
mod subscription;

use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::action::Record;
use crate::cache::{Answer, Kind};
use crate::clock;
use crate::events::Recorder;
use crate::health::Health;
use informer::Notice;
use subscription::Shared;

pub(crate) use informer::is_partial;
pub(crate) use lenient::Lenient;
pub(crate) use subscription::{InformerEvent, Subscription, ViewReader};

/// Watch events that informers may be ahead of the hub.
const MAX_QUEUED_NOTICES: usize = 1024;

/// The component that Events about unreadable objects name.
const EVENT_SOURCE: &str = "skep-controller-manager";
/// Events about unreadable objects under way; more are only logged.
const MAX_ACTIVE_RECORDS: usize = 32;

/// A subscriber gets what is known when it subscribes, then every change. `run` may be called again after it ended: every
/// kind is listed again, and the differences are published.
#[derive(Clone)]
pub(crate) struct Hub {
    kinds: &'static [Kind],
    shared: Arc<Shared>,
    health: Arc<Health>,
}

impl Hub {
    pub(crate) fn new(kinds: &'static [Kind], health: Arc<Health>) -> Self {
        Hub { kinds, shared: Arc::new(Shared::new(kinds)), health }
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        self.shared.subscribe()
    }

    /// Watches every kind and publishes until the future is dropped.
    pub(crate) async fn run(self, client: Client) {
        let (sender, mut notices) = mpsc::channel(MAX_QUEUED_NOTICES);
        let mut informers = JoinSet::new();
        for kind in self.kinds {
            informers.spawn(informer::watch(client.clone(), *kind, self.health.clone(), sender.clone()));
        }
        drop(sender);
        let (mut records, recorder) = (JoinSet::new(), Arc::new(Recorder::default()));
        let mut confirmations: JoinSet<Vec<Answer>> = JoinSet::new();
        loop {
            let unconfirmed = self.shared.take_unconfirmed();
            if !unconfirmed.is_empty() {
                confirmations.spawn(confirm::confirm(client.clone(), unconfirmed));
            }
            tokio::select! {
                notice = notices.recv() => {
                    let Some(notice) = notice else { return };
                    // Publish all that has arrived: one reconcile may then answer many events.
                    let arrived = std::iter::once(notice).chain(std::iter::from_fn(|| notices.try_recv().ok()));
                    for record in arrived.filter_map(|notice| self.accept(notice)) {
                        if records.len() < MAX_ACTIVE_RECORDS {
                            let (client, recorder) = (client.clone(), recorder.clone());
                            records.spawn(async move { recorder.record(&client, EVENT_SOURCE, &record).await });
                        }
                    }
                }
                Some(_) = records.join_next() => {}
                // An informer that ended is a fault: all of them start again.
                Some(_) = informers.join_next() => return,
                Some(confirmed) = confirmations.join_next() => match confirmed {
                    Ok(answers) => self.shared.absorb_for_all(answers, clock::steady()),
                    Err(error) => tracing::error!(%error, "confirm written objects failed"),
                },
            }
        }
    }

    /// Applies a notice. Returns the Event to write, if it is one.
    fn accept(&self, notice: Notice) -> Option<Record> {
        match notice {
            Notice::Event(kind, event) => self.shared.apply(kind, event, clock::steady()),
            Notice::NotServed(kind) => self.shared.not_served(kind),
            Notice::Record(record) => return Some(record),
        }
        None
    }
}

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
mod subscription;

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cache::{Answer, Kind};
use informer::Notice;
use subscription::Shared;

pub(crate) use informer::is_partial;
pub(crate) use subscription::{InformerEvent, Subscription};

/// Watch events that informers may be ahead of the hub.
const MAX_QUEUED_NOTICES: usize = 1024;

/// Subscribe first, then run: `run` takes the hub, so no subscriber can miss an event.
pub(crate) struct Hub {
    kinds: &'static [Kind],
    shared: Arc<Shared>,
}

impl Hub {
    pub(crate) fn new(kinds: &'static [Kind]) -> Self {
        Hub { kinds, shared: Arc::new(Shared::new(kinds)) }
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        self.shared.subscribe()
    }

    /// Watches every kind and publishes until the future is dropped.
    pub(crate) async fn run(self, client: Client) {
        let (sender, mut notices) = mpsc::channel(MAX_QUEUED_NOTICES);
        let mut informers = JoinSet::new();
        for kind in self.kinds {
            informers.spawn(informer::watch(client.clone(), *kind, sender.clone()));
        }
        drop(sender);
        let mut confirmations: JoinSet<Vec<Answer>> = JoinSet::new();
        loop {
            let unconfirmed = self.shared.take_unconfirmed();
            if !unconfirmed.is_empty() {
                confirmations.spawn(confirm::confirm(client.clone(), unconfirmed));
            }
            tokio::select! {
                notice = notices.recv() => {
                    let Some(notice) = notice else { return };
                    self.accept(notice);
                    // Publish all that has arrived: one reconcile may then answer many events.
                    while let Ok(notice) = notices.try_recv() {
                        self.accept(notice);
                    }
                }
                Some(confirmed) = confirmations.join_next() => match confirmed {
                    Ok(answers) => self.shared.absorb_for_all(answers, Timestamp::now()),
                    Err(error) => tracing::error!(%error, "confirm written objects failed"),
                },
            }
        }
    }

    fn accept(&self, notice: Notice) {
        match notice {
            Notice::Event(kind, event) => self.shared.apply(kind, event, Timestamp::now()),
            Notice::NotServed(kind) => self.shared.not_served(kind),
        }
    }
}

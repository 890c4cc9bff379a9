//! The garbage collector. In: the hub's changes, and metadata watches of every kind that the hub does not hold. Out:
//! deletes and patches of dependents whose owners are gone. [`graph`] decides, [`perform`] makes the requests.

mod collector;
mod graph;
mod perform;
mod watch;

use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::hub::Subscription;
use crate::meta::namespace;
use crate::timer::sleep_until;
use collector::Collector;
use perform::CollectionResult;
use watch::{Message, discover_after};

const MAX_QUEUED_MESSAGES: usize = 1024;

/// Collects until the future is dropped or the hub is gone. `ended` gets the namespace of every deleted object of a kind
/// that the hub does not hold.
pub(crate) async fn run(
    client: Client,
    mut subscription: Subscription,
    ended: mpsc::UnboundedSender<String>,
) {
    let (sender, mut messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
    let mut state = Collector::default();
    let mut watches = JoinSet::new();
    let mut jobs: JoinSet<CollectionResult> = JoinSet::new();
    watches.spawn(discover_after(Duration::ZERO, client.clone(), sender.clone()));
    loop {
        state.start(&client, &mut jobs);
        tokio::select! {
            event = subscription.next() => {
                let Some(event) = event else { return };
                state.accept(&event);
            }
            Some(message) = messages.recv() => {
                if let Message::Delete(meta) = &message {
                    // A closed channel means that this run is ending.
                    let _ = ended.send(namespace(meta).to_owned());
                }
                if let Some(pause) = state.message(message, &client, &sender, &mut watches) {
                    watches.spawn(discover_after(pause, client.clone(), sender.clone()));
                }
            }
            Some(done) = jobs.join_next() => match done {
                Ok(done) => state.done(done),
                Err(error) => tracing::error!(%error, "collect object failed"),
            },
            () = sleep_until(state.next_due()) => {}
        }
    }
}

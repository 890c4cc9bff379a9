//! The garbage collector. In: the hub's changes, and metadata watches of every kind that the hub does not hold. Out:
//! deletes and patches of dependents whose owners are gone.
//!
//! [`graph`] shows which objects must be checked, [`perform`] asks the server about them and their owners, and [`verdict`]
//! decides from its answers.

mod collector;
mod graph;
mod perform;
mod references;
mod resources;
mod verdict;
mod watch;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::hub::Subscription;
use crate::meta::namespace;
use crate::timer::sleep_until;
use collector::Collector;
use perform::CollectionResult;
use resources::Watching;
use watch::{Message, discover_once};

const MAX_QUEUED_MESSAGES: usize = 1024;

/// Collects until the future is dropped or the hub is gone. `ended` gets the namespace of every deleted object of a kind
/// that the hub does not hold.
pub(crate) async fn run(
    client: Client,
    mut subscription: Subscription,
    ended: mpsc::UnboundedSender<String>,
) {
    let (sender, mut messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
    let mut state = Collector::new();
    let mut watches = JoinSet::new();
    let mut jobs: JoinSet<CollectionResult> = JoinSet::new();
    loop {
        if state.must_discover() {
            watches.spawn(discover_once(client.clone(), sender.clone()));
        }
        state.start(&client, &mut jobs);
        let discovery = state.next_discovery();
        tokio::select! {
            event = subscription.next() => {
                let Some(event) = event else { return };
                state.accept(&event);
            }
            Some(message) = messages.recv() => {
                if let Message::Delete(_, meta) = &message {
                    // A closed channel means that this run is ending.
                    let _ = ended.send(namespace(meta).to_owned());
                }
                let mut watching = Watching { client: &client, sender: &sender, tasks: &mut watches };
                state.message(message, &mut watching);
            }
            Some(done) = jobs.join_next() => match done {
                Ok(done) => state.done(done),
                Err(error) => tracing::error!(%error, "collect object failed"),
            },
            () = sleep_until(state.next_due()) => {}
            () = tokio::time::sleep_until(discovery) => {}
        }
    }
}

//! Scales the targets of HorizontalPodAutoscalers. Each is looked at every 15 seconds, and at once when its specification
//! changed. `controllers::horizontal_pod_autoscaler` decides; this part asks the scale and the metrics, and writes.

mod metrics;
mod round;
mod scales;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cache::{Change, Key, Kind, Object};
use crate::controllers::horizontal_pod_autoscaler::behavior::History;
use crate::hub::{InformerEvent, Subscription};
use crate::meta;
use round::{Done, Round, Shared};

/// Between two looks at an autoscaler (upstream's `--horizontal-pod-autoscaler-sync-period`).
const SYNC_PERIOD: Duration = Duration::from_secs(15);
/// Autoscalers that are looked at at the same time.
const MAX_ACTIVE_ROUNDS: usize = 16;

struct Autoscaler {
    uid: String,
    due: Instant,
    /// What is remembered between two rounds; absent during one.
    history: Option<History>,
}

struct Autoscalers {
    all: HashMap<Key, Autoscaler>,
    /// Those that wait, by when they are due.
    queue: BTreeSet<(Instant, Key)>,
    shared: Arc<Shared>,
    /// Kinds that are not listed yet.
    unlisted: BTreeSet<Kind>,
}

/// Runs until the future is dropped or the hub is gone.
pub(crate) async fn run(client: Client, mut subscription: Subscription) {
    let shared = Arc::new(Shared::new(client, subscription.reader()));
    let unlisted = BTreeSet::from([Kind::HorizontalPodAutoscaler, Kind::Pod]);
    let mut state = Autoscalers { all: HashMap::new(), queue: BTreeSet::new(), shared, unlisted };
    let mut rounds: JoinSet<Done> = JoinSet::new();
    loop {
        // All that has arrived is taken in first.
        while let Some(event) = subscription.try_next() {
            state.accept(&event);
        }
        let due = state.start(&mut rounds);
        tokio::select! {
            event = subscription.next() => match event {
                Some(event) => state.accept(&event),
                None => return,
            },
            Some(done) = rounds.join_next() => match done {
                Ok(done) => state.done(done),
                // A round returns its panics, and none is aborted before this part.
                Err(error) => tracing::error!(%error, "round of an autoscaler failed"),
            },
            () = async { match due { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
        }
    }
}

impl Autoscalers {
    fn accept(&mut self, event: &InformerEvent) {
        match event {
            InformerEvent::Change(change) => self.change(change),
            InformerEvent::Listed(kind) => drop(self.unlisted.remove(kind)),
        }
    }

    fn change(&mut self, change: &Change) {
        let Some(Object::HorizontalPodAutoscaler(object)) = change.object() else { return };
        let key = Key::of(&object.metadata);
        let Some(Object::HorizontalPodAutoscaler(new)) = &change.new else { return self.remove(&key) };
        let uid = meta::uid(&new.metadata);
        let (is_same, is_changed) = match &change.old {
            Some(Object::HorizontalPodAutoscaler(old)) => {
                (meta::uid(&old.metadata) == uid, old.spec != new.spec)
            }
            _ => (false, true),
        };
        if !is_same {
            self.remove(&key);
        }
        let now = Instant::now();
        let autoscaler = self.all.entry(key.clone()).or_insert_with(|| Autoscaler {
            uid: uid.to_owned(),
            due: now,
            history: Some(History::default()),
        });
        if is_changed {
            self.queue.remove(&(autoscaler.due, key.clone()));
            autoscaler.due = now;
        }
        if autoscaler.history.is_some() {
            self.queue.insert((autoscaler.due, key));
        }
    }

    fn remove(&mut self, key: &Key) {
        self.shared.forget(key);
        if let Some(Autoscaler { due, .. }) = self.all.remove(key) {
            self.queue.remove(&(due, key.clone()));
        }
    }

    /// Starts the rounds that are due; returns when the next one is. The end of a round starts those that wait for room.
    fn start(&mut self, rounds: &mut JoinSet<Done>) -> Option<Instant> {
        if !self.unlisted.is_empty() {
            return None;
        }
        let now = Instant::now();
        while rounds.len() < MAX_ACTIVE_ROUNDS {
            let (due, key) = self.queue.first()?.clone();
            if due > now {
                return Some(due);
            }
            self.queue.pop_first();
            let Some(autoscaler) = self.all.get_mut(&key) else { continue };
            let Some(history) = autoscaler.history.take() else { continue };
            autoscaler.due = now + SYNC_PERIOD;
            let uid = autoscaler.uid.clone();
            rounds.spawn(Round { shared: self.shared.clone(), key, uid, history }.run());
        }
        None
    }

    fn done(&mut self, Done { key, uid, history }: Done) {
        match self.all.get_mut(&key).filter(|autoscaler| autoscaler.uid == uid) {
            Some(autoscaler) => {
                autoscaler.history = Some(history);
                self.queue.insert((autoscaler.due, key));
            }
            // It was deleted meanwhile; what the round knew of it goes.
            None => self.shared.forget(&key),
        }
    }
}

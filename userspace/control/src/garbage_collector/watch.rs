//! Metadata watches of the kinds that the hub does not hold, and the discovery of those kinds.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::discovery::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::references::References;
use crate::cache::Key;
use crate::discovery::{Discovered, discover};
use crate::hub::Lenient;

const MIN_DISCOVERY_RETRY: Duration = Duration::from_millis(100);
const MAX_DISCOVERY_RETRY: Duration = Duration::from_secs(30);

/// New kinds come with definitions; their resource may need a moment to be served.
const DISCOVERY_PAUSE: Duration = Duration::from_millis(500);
/// The interval of discoveries while something is not served, or not yet; and at other times, for servers that change
/// what they serve without a change of their APIService.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);

/// When to discover. The caller starts a discovery when `must_start` says so, and reports its end by `done`.
pub(super) struct DiscoverySchedule {
    due: Instant,
    running: bool,
    /// What is served may have changed since the running discovery started.
    again: bool,
    /// What is served may have changed since the last discovery that ended.
    stale: bool,
}

impl Default for DiscoverySchedule {
    fn default() -> Self {
        DiscoverySchedule { due: Instant::now(), running: false, again: false, stale: false }
    }
}

impl DiscoverySchedule {
    pub(super) fn must_start(&mut self) -> bool {
        let start = !self.running && self.due <= Instant::now();
        self.running |= start;
        start
    }

    pub(super) fn due(&self) -> Instant {
        if self.running { Instant::now() + REFRESH_INTERVAL } else { self.due }
    }

    /// What is served may have changed.
    pub(super) fn soon(&mut self) {
        self.again |= self.running;
        self.stale = true;
        self.due = self.due.min(Instant::now() + DISCOVERY_PAUSE);
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Something is not served that is needed.
    pub(super) fn retry(&mut self) {
        self.due = self.due.min(Instant::now() + RETRY_INTERVAL);
    }

    pub(super) fn done(&mut self, incomplete: bool) {
        let pause = match (self.again, incomplete) {
            (true, _) => DISCOVERY_PAUSE,
            (false, true) => RETRY_INTERVAL,
            (false, false) => REFRESH_INTERVAL,
        };
        let stale = self.again;
        *self = DiscoverySchedule { due: Instant::now() + pause, running: false, again: false, stale };
    }
}

/// Events of a busy kind gather for this long: each wake of the collector costs more than an event.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// Events that are taken together.
const MAX_GATHERED: usize = 256;

/// The number is the collector's own for the resource.
pub(super) enum Message {
    Init(u32),
    Apply(u32, Box<ObjectMeta>),
    InitDone(u32),
    Delete(u32, Box<ObjectMeta>),
    Discovered(Discovered),
}

/// Discovers, trying until the server answers.
pub(super) async fn discover_once(client: Client, sender: mpsc::Sender<Message>) {
    let mut retry = MIN_DISCOVERY_RETRY;
    loop {
        match discover(&client).await {
            Ok(found) => return drop(sender.send(Message::Discovered(found)).await),
            Err(error) => tracing::info!(%error, "discover resources failed; it is retried"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(MAX_DISCOVERY_RETRY);
    }
}

/// Watches one resource until the receiver is gone.
pub(super) async fn follow(
    client: Client,
    number: u32,
    api: Arc<ApiResource>,
    sender: mpsc::Sender<Message>,
) {
    let objects: Api<Lenient<References>> = Api::all_with(client, api.as_ref());
    let steps = watcher(objects, watcher::Config::default()).default_backoff();
    let mut gathered = pin!(steps.ready_chunks(MAX_GATHERED));
    while let Some(steps) = gathered.next().await {
        let is_all = steps.len() < MAX_GATHERED;
        for step in steps {
            let message = match step {
                Ok(event) => message(number, event),
                Err(error) => {
                    tracing::debug!(kind = api.kind, %error, "metadata watch failed");
                    continue;
                }
            };
            if sender.send(message).await.is_err() {
                return;
            }
        }
        if is_all {
            tokio::time::sleep(GATHER_TIME).await;
        }
    }
}

fn message(number: u32, event: watcher::Event<Lenient<References>>) -> Message {
    match event {
        watcher::Event::Init => Message::Init(number),
        watcher::Event::InitDone => Message::InitDone(number),
        watcher::Event::InitApply(o) | watcher::Event::Apply(o) => Message::Apply(number, metadata(o)),
        watcher::Event::Delete(o) => Message::Delete(number, metadata(o)),
    }
}

/// The metadata; of an object whose metadata does not decode only its identity, so that it still counts as an owner.
fn metadata(object: Lenient<References>) -> Box<ObjectMeta> {
    match object {
        Lenient::Object(References(metadata)) => metadata,
        Lenient::Unreadable { meta, error } => {
            tracing::warn!(object = %Key::of(&meta), error, "decode metadata failed; the object is kept");
            meta
        }
    }
}

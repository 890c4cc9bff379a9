//! The watch of one kind. In: a client. Out: [`Notice`]s over a channel; fields that no one reads are dropped on arrival.
//! An object that does not decode is skipped and reported; its last version that did stays in force.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::lenient::Lenient;
use crate::action::Record;
use crate::cache::kinds::with_type;
use crate::cache::{Key, Kind, Object, Stored, WatchEvent, transformed};
use crate::controllers::csr::JOIN_RECORD_TYPE;
use crate::health::{Counter, Health};

/// How often the server is asked for a kind that it does not serve; the kind may come with its upgrade.
const NOT_SERVED_RETRY_INTERVAL: Duration = Duration::from_secs(300);

pub(super) enum Notice {
    Event(Kind, WatchEvent),
    /// The server does not serve the kind (it may later).
    NotServed(Kind),
    /// An Event about an object that does not decode.
    Record(Record),
}

/// Watches one kind until the receiver is gone.
pub(super) async fn watch(client: Client, kind: Kind, health: Arc<Health>, notices: mpsc::Sender<Notice>) {
    let informer = Informer { kind, health, notices, unreadable: BTreeMap::new(), listing: None };
    with_type!(kind, K => {
        let api: Api<Lenient<K>> = Api::all(client);
        drop(informer.follow::<K>(api).await)
    })
}

/// The receiver is gone.
struct Closed;

struct Informer {
    kind: Kind,
    health: Arc<Health>,
    notices: mpsc::Sender<Notice>,
    /// resourceVersions of the objects that do not decode.
    unreadable: BTreeMap<Key, String>,
    /// What the list under way has shown of them.
    listing: Option<BTreeMap<Key, String>>,
}

impl Informer {
    async fn follow<K>(mut self, api: Api<Lenient<K>>) -> Result<(), Closed>
    where
        K: Resource<DynamicType = ()> + Stored + DeserializeOwned + Debug,
        Object: From<K>,
    {
        let mut stream = pin!(watcher(api, config(self.kind)).default_backoff());
        while let Some(step) = stream.next().await {
            let event = match step {
                Ok(event) => event,
                Err(error) => {
                    self.failed(&error).await?;
                    continue;
                }
            };
            // The watcher itself sends `Init` when it begins a list, before the server has answered.
            if !matches!(event, watcher::Event::Init) && self.health.watch_works(self.kind) {
                tracing::info!(kind = self.kind.name(), "watch works again");
            }
            match event {
                watcher::Event::Init => {
                    self.listing = Some(BTreeMap::new());
                    self.send(WatchEvent::Init).await?;
                }
                watcher::Event::InitApply(item) => self.item(item, WatchEvent::InitApply).await?,
                watcher::Event::InitDone => {
                    self.unreadable = self.listing.take().unwrap_or_default();
                    self.report();
                    self.send(WatchEvent::InitDone).await?;
                }
                watcher::Event::Apply(item) => self.item(item, WatchEvent::Apply).await?,
                watcher::Event::Delete(item) => self.deleted(item).await?,
            }
        }
        Ok(())
    }

    async fn failed(&self, error: &watcher::Error) -> Result<(), Closed> {
        let kind = self.kind.name();
        if is_not_served(error) {
            self.health.watch_works(self.kind);
            self.notice(Notice::NotServed(self.kind)).await?;
            tokio::time::sleep(NOT_SERVED_RETRY_INTERVAL).await;
        } else if self.health.watch_failed(self.kind) {
            // Logged once an outage: the back-off repeats the error for as long as the outage lasts.
            tracing::warn!(kind, %error, "watch failed; the last known objects stay in force");
        }
        Ok(())
    }

    async fn item<K>(&mut self, item: Lenient<K>, event: fn(Object) -> WatchEvent) -> Result<(), Closed>
    where
        K: Stored,
        Object: From<K>,
    {
        match item {
            Lenient::Object(object) => {
                if !self.unreadable.is_empty()
                    && self.unreadable.remove(&Key::of(object.metadata())).is_some()
                {
                    self.report();
                }
                self.send(event(transformed(object))).await
            }
            Lenient::Unreadable { meta, error } => self.skipped(&meta, error).await,
        }
    }

    async fn skipped(&mut self, meta: &ObjectMeta, error: String) -> Result<(), Closed> {
        let (key, kind) = (Key::of(meta), self.kind);
        let version = meta.resource_version.clone().unwrap_or_default();
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone(), version.clone());
        }
        if self.unreadable.insert(key.clone(), version.clone()) != Some(version) {
            self.health.count(Counter::Unreadable, kind.name());
            self.report();
            tracing::warn!(kind = kind.name(), object = %key, error, "decode object failed; it is skipped");
            let message =
                format!("The object cannot be read and is skipped by controllers and scheduler: {error}");
            let uid = meta.uid.clone().unwrap_or_default();
            let key = key.clone();
            self.notice(Notice::Record(Record {
                kind,
                key,
                uid,
                warning: true,
                reason: UNREADABLE,
                message,
            }))
            .await?;
        }
        self.send(WatchEvent::Unreadable(key, meta.uid.clone())).await
    }

    async fn deleted<K>(&mut self, item: Lenient<K>) -> Result<(), Closed>
    where
        K: Stored,
        Object: From<K>,
    {
        let forget = |informer: &mut Informer, meta: &ObjectMeta| {
            if !informer.unreadable.is_empty() && informer.unreadable.remove(&Key::of(meta)).is_some() {
                informer.report();
            }
        };
        match item {
            Lenient::Object(object) => {
                forget(self, object.metadata());
                self.send(WatchEvent::Delete(transformed(object))).await
            }
            Lenient::Unreadable { meta, .. } => {
                forget(self, &meta);
                self.send(WatchEvent::DeleteUnreadable(Key::of(&meta), meta.uid)).await
            }
        }
    }

    fn report(&self) {
        self.health.unreadable(self.kind, self.unreadable.keys().map(Key::to_string).collect());
    }

    async fn send(&self, event: WatchEvent) -> Result<(), Closed> {
        self.notice(Notice::Event(self.kind, event)).await
    }

    async fn notice(&self, notice: Notice) -> Result<(), Closed> {
        self.notices.send(notice).await.map_err(|_| Closed)
    }
}

/// The reason of the Event about an object that does not decode.
const UNREADABLE: &str = "Unreadable";

/// Of kinds that may have many objects, only those that a controller reads.
fn config(kind: Kind) -> watcher::Config {
    match kind {
        Kind::Lease => watcher::Config::default().fields("metadata.namespace=kube-node-lease"),
        Kind::ConfigMap => watcher::Config::default().fields("metadata.name=kube-root-ca.crt"),
        Kind::Secret => watcher::Config::default().fields(&format!("type={JOIN_RECORD_TYPE}")),
        _ => watcher::Config::default(),
    }
}

/// Whether the informer of a kind holds only some of its objects.
pub(crate) fn is_partial(kind: Kind) -> bool {
    matches!(kind, Kind::Lease | Kind::ConfigMap | Kind::Secret)
}

fn is_not_served(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.code == 404
}

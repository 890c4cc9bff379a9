//! Every object in memory as bytes, fed by one watch of the store: reads and watches never touch the disk.

mod changes;
mod resource;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skep_api::{Kind, kinds};
use skep_store::{Event, Revision, Store, StoreError, WatchItem};
use tokio::sync::watch;

pub(crate) use changes::{Change, ChangeKind, line};
pub(crate) use resource::{Changes, Resource};

use crate::access::{Access, matters};
use crate::object::{Object, prefix};

const ROOT: &str = "/registry/";
/// Entries that are held twice, as stored and as sent, while the caches are filled.
const PAGE: usize = 2_048;
/// How long a read waits for the caches to reach the store before it says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cache for each stored kind, all at one revision.
pub(crate) struct Caches {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

struct Shared {
    /// By the prefix of the keys: `/registry/pods/`.
    resources: HashMap<String, (&'static Kind, Arc<Resource>)>,
    access: Access,
    /// The revision up to which all caches are complete.
    applied: watch::Sender<Revision>,
}

impl Caches {
    /// Reads everything once, then follows.
    pub(crate) async fn load(store: Arc<dyn Store>) -> Result<Caches, StoreError> {
        let mut resources = HashMap::new();
        for kind in kinds() {
            resources.entry(prefix(kind)).or_insert_with(|| (kind, Arc::new(Resource::default())));
        }
        let shared =
            Arc::new(Shared { resources, access: Access::default(), applied: watch::Sender::new(0) });
        let revision = shared.fill(&*store).await?;
        tokio::spawn(follow(shared.clone(), store.clone(), revision));
        Ok(Caches { store, shared })
    }

    /// The cache of a kind's objects. Every kind of the table has one.
    pub(crate) fn of(&self, kind: &Kind) -> Option<Arc<Resource>> {
        self.shared.resources.get(&prefix(kind)).map(|(_, resource)| resource.clone())
    }

    /// Waits until the caches hold everything that was acknowledged before this call.
    pub(crate) async fn catch_up(&self) -> Result<Revision, StoreError> {
        let wanted = self.store.revision().await?;
        self.wait_for(wanted).await
    }

    pub(crate) async fn wait_for(&self, wanted: Revision) -> Result<Revision, StoreError> {
        let now = self.applied();
        if now >= wanted {
            return Ok(now);
        }
        let mut applied = self.shared.applied.subscribe();
        let reached = tokio::time::timeout(PATIENCE, applied.wait_for(|at| *at >= wanted)).await;
        match reached {
            Ok(Ok(at)) => Ok(*at),
            _ => Err(StoreError::Unavailable("the watch cache is behind the store".to_owned())),
        }
    }

    /// Authorisation as of the caches' revision.
    pub(crate) fn access(&self) -> &Access {
        &self.shared.access
    }

    pub(crate) fn applied(&self) -> Revision {
        *self.shared.applied.borrow()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

impl Shared {
    /// Fills the caches with the present; used at the start and after history was lost.
    async fn fill(&self, store: &dyn Store) -> Result<Revision, StoreError> {
        let mut objects: HashMap<&str, Vec<Arc<Object>>> = HashMap::new();
        let (mut after, mut at) = (None, None);
        let revision = loop {
            let page = store.range(ROOT, after.as_deref(), PAGE, at).await?;
            for entry in &page.entries {
                if let Some((prefix, (kind, _))) = self.resource_of(&entry.key) {
                    let object = Object::from_entry(kind, entry);
                    if matters(kind) {
                        self.access.apply(&object.value());
                    }
                    objects.entry(prefix).or_default().push(Arc::new(object));
                }
            }
            if !page.more {
                break page.revision;
            }
            at = Some(page.revision);
            after = page.entries.last().map(|entry| entry.key.clone());
        };
        for (prefix, (_, resource)) in &self.resources {
            resource.reset(objects.remove(prefix.as_str()).unwrap_or_default(), revision);
        }
        self.applied.send_replace(revision);
        Ok(revision)
    }

    fn resource_of(&self, key: &str) -> Option<(&str, &(&'static Kind, Arc<Resource>))> {
        // `/registry/pods/...` or `/registry/apps/deployments/...`: one or two parts behind the root.
        let rest = key.strip_prefix(ROOT)?;
        let first = ROOT.len() + rest.find('/')? + 1;
        let second = key[first..].find('/').map(|at| first + at + 1);
        [Some(first), second].into_iter().flatten().find_map(|end| {
            let (prefix, resource) = self.resources.get_key_value(&key[..end])?;
            Some((prefix.as_str(), resource))
        })
    }

    fn apply(&self, event: &Event) {
        let Some((_, (kind, resource))) = self.resource_of(event.key()) else { return };
        match event {
            Event::Put { entry, .. } => {
                let object = Object::from_entry(kind, entry);
                if matters(kind) {
                    self.access.apply(&object.value());
                }
                resource.put(Arc::new(object));
            }
            Event::Delete { revision, previous } => {
                if matters(kind) {
                    self.access.delete(&Object::from_entry(kind, previous).value());
                }
                resource.delete(&previous.key, *revision);
            }
        }
    }
}

/// Feeds the caches for ever. A watch that breaks is made anew from the last revision seen.
async fn follow(shared: Arc<Shared>, store: Arc<dyn Store>, mut revision: Revision) {
    let mut pause = Duration::from_millis(10);
    loop {
        let error = match store.watch(ROOT, revision).await {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Some(Ok(WatchItem::Events(events))) => {
                        events.iter().for_each(|event| shared.apply(event));
                        revision = events.last().map_or(revision, Event::revision);
                        shared.applied.send_replace(revision);
                        pause = Duration::from_millis(10);
                    }
                    Some(Ok(WatchItem::Progress(at))) => {
                        revision = revision.max(at);
                        shared.applied.send_replace(revision);
                    }
                    Some(Err(error)) => break error,
                    None => break StoreError::Closed,
                }
            },
            Err(error) => error,
        };
        tracing::warn!(%error, "the watch of the store ended; watching again");
        if let StoreError::Compacted { .. } = error {
            match shared.fill(&*store).await {
                Ok(filled) => revision = filled,
                Err(error) => tracing::warn!(%error, "read the store again"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

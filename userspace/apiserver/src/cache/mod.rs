//! All objects in memory as bytes, fed by one watch of the store, so that reads and watches do not touch the disk.

mod changes;
mod objects;
mod queue;
mod resource;
mod table;
#[cfg(test)]
mod tests;
mod watchers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skep_api::custom::definition::is_definition;
use skep_api::{Kind, KindRef, Registry, Status};
use skep_store::{Entry, Event, Revision, Store, StoreError, WatchItem};
use tokio::sync::watch;

pub(crate) use changes::{Change, ChangeKind, line, push_line};
pub(crate) use queue::Changes;
pub(crate) use resource::{Counts, Resource};
pub(crate) use watchers::Trigger;

use crate::definitions;
use crate::live_authorizer::{LiveAuthorizer, matters};
use crate::lock::RwLock;
use crate::object::{Object, key, namespace_and_name, prefix};
use table::{CachedKind, Defined, Table};
use watchers::NODE_NAME;

const ROOT: &str = "/registry/";
/// Entries read at once while the caches are filled: these are in memory twice, as stored and as sent.
const PAGE_LENGTH: usize = 2_048;
/// A read that waits longer for the caches to reach the store's revision fails.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// A cache for each stored kind, all at one revision. Cheap to clone; clones share the caches.
#[derive(Clone)]
pub(crate) struct Caches {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Kinds and their caches; a change of definitions replaces it.
    table: RwLock<Arc<Table>>,
    authorizer: LiveAuthorizer,
    /// The revision up to which all caches are complete.
    applied: watch::Sender<Revision>,
}

impl Caches {
    /// Reads the store once, then follows its watch.
    pub(crate) async fn load(store: Arc<dyn Store>) -> Result<Caches, StoreError> {
        let shared = Arc::new(Shared {
            table: RwLock::default(),
            authorizer: LiveAuthorizer::default(),
            applied: watch::Sender::new(0),
        });
        let revision = shared.fill(&*store).await?;
        tokio::spawn(follow(shared.clone(), store.clone(), revision));
        Ok(Caches { store, shared })
    }

    /// The kinds that are served.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.shared.table().registry.clone()
    }

    /// The cache of a kind's objects. Every kind of the registry has one.
    pub(crate) fn of(&self, kind: &Kind) -> Option<Arc<Resource>> {
        self.shared.table().cached_kinds.get(&prefix(kind)).map(|cached| cached.resource.clone())
    }

    /// The object as the cache has it now; 404 if missing.
    pub(crate) fn get_or_404(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let found = self.of(kind).and_then(|resource| resource.get(&key(kind, namespace, name)));
        found.ok_or_else(|| Status::not_found(kind, name))
    }

    /// The kind of a CustomResourceDefinition, in its storage version.
    pub(crate) fn made_by(&self, definition: &str) -> Option<KindRef> {
        self.shared.table().made.get(definition)?.stored.clone().map(KindRef::Custom)
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
        let reached = tokio::time::timeout(CATCH_UP_TIMEOUT, applied.wait_for(|at| *at >= wanted)).await;
        match reached {
            Ok(Ok(at)) => Ok(*at),
            _ => Err(StoreError::Unavailable("the watch cache is behind the store".to_owned())),
        }
    }

    /// Waits until the caches hold what the condition asks for. It is evaluated after each change.
    pub(crate) async fn until(&self, mut is_so: impl FnMut() -> bool) {
        let mut applied = self.shared.applied.subscribe();
        while !is_so() && applied.changed().await.is_ok() {}
    }

    /// Authorisation as of the caches' revision.
    pub(crate) fn authorizer(&self) -> &LiveAuthorizer {
        &self.shared.authorizer
    }

    pub(crate) fn applied(&self) -> Revision {
        *self.shared.applied.borrow()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

impl Shared {
    fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    fn set_table(&self, table: Table) {
        *self.table.write() = Arc::new(table);
    }

    /// Fills the caches with the present state; at the start, and after the store compacted revisions not yet applied.
    async fn fill(&self, store: &dyn Store) -> Result<Revision, StoreError> {
        // Definitions first: the objects of their kinds are read by their schemas.
        let mut definitions = Vec::new();
        let of_definitions = definitions::kind().map(prefix).unwrap_or_default();
        let revision = each_page(store, &of_definitions, None, |entries| {
            definitions.extend(entries.iter().filter_map(|entry| Some(Defined::by(&value_of(entry)?))));
        })
        .await?;
        let table = self.table().with_all(definitions);
        let mut objects: HashMap<String, Vec<Arc<Object>>> = HashMap::new();
        each_page(store, ROOT, Some(revision), |entries| {
            for entry in entries {
                let Some((prefix, cached)) = table.kind_of_key(&entry.key) else { continue };
                let object = Object::from_entry(&cached.kind, entry);
                self.authorize_by(&cached.kind, &object);
                match objects.get_mut(prefix) {
                    Some(list) => list.push(Arc::new(object)),
                    None => drop(objects.insert(prefix.to_owned(), vec![Arc::new(object)])),
                }
            }
        })
        .await?;
        for (prefix, cached) in &table.cached_kinds {
            cached.resource.reset(objects.remove(prefix).unwrap_or_default(), revision);
        }
        self.set_table(table);
        self.applied.send_replace(revision);
        Ok(revision)
    }

    /// Applies an event. A definition's kind is served before watchers get the definition.
    async fn apply(&self, store: &dyn Store, event: &Event) -> Result<(), StoreError> {
        let table = self.table();
        let Some((_, cached)) = table.kind_of_key(event.key()) else { return Ok(()) };
        if is_definition(&cached.kind) {
            self.redefine(store, &table, event).await?;
        }
        match event {
            Event::Put { entry, .. } => {
                let object = Object::from_entry(&cached.kind, entry);
                self.authorize_by(&cached.kind, &object);
                cached.resource.put(Arc::new(object));
            }
            Event::Delete { revision, previous } => {
                if matters(&cached.kind) {
                    let (namespace, name) = namespace_and_name(&cached.kind, &previous.key);
                    self.authorizer.delete(&cached.kind, namespace, name);
                }
                cached.resource.delete(&previous.key, *revision);
            }
        }
        Ok(())
    }

    /// Gives and takes the rights that follow from an object.
    fn authorize_by(&self, kind: &Kind, object: &Object) {
        if !matters(kind) {
            return;
        }
        // A pod without a node gives no rights. Each pod starts as one, so it is not decoded for that.
        if kind.group.is_empty() && kind.kind == "Pod" && object.selectable.field(NODE_NAME).is_empty() {
            let (namespace, name) = namespace_and_name(kind, &object.key);
            return self.authorizer.delete(kind, namespace, name);
        }
        self.authorizer.apply(&object.value());
    }

    /// Rebuilds the kinds after a definition changed. Objects whose schema changed are read again.
    async fn redefine(&self, store: &dyn Store, table: &Table, event: &Event) -> Result<(), StoreError> {
        let (new, stale) = match event {
            // A definition that cannot be read changes nothing: its kind is served as before.
            Event::Put { entry, .. } => match value_of(entry) {
                Some(definition) => table.with(Defined::by(&definition)),
                None => return Ok(()),
            },
            Event::Delete { previous, .. } => {
                let name = previous.key.rsplit('/').next().unwrap_or_default();
                (table.without(name), None)
            }
        };
        if let Some((prefix, cached)) = stale {
            let read = read(store, &prefix, &cached, Some(event.revision())).await;
            let objects = match read {
                // The revision was compacted: the present includes it, and the events that follow complete it.
                Err(StoreError::Compacted { .. }) => read_present(store, &prefix, &cached).await?,
                read => read?,
            };
            cached.resource.reset(objects, event.revision());
        }
        self.set_table(new);
        Ok(())
    }
}

async fn read_present(
    store: &dyn Store,
    prefix: &str,
    cached: &CachedKind,
) -> Result<Vec<Arc<Object>>, StoreError> {
    read(store, prefix, cached, None).await
}

async fn read(
    store: &dyn Store,
    prefix: &str,
    cached: &CachedKind,
    at: Option<Revision>,
) -> Result<Vec<Arc<Object>>, StoreError> {
    let mut objects = Vec::new();
    each_page(store, prefix, at, |entries| {
        objects.extend(entries.iter().map(|entry| Arc::new(Object::from_entry(&cached.kind, entry))));
    })
    .await?;
    Ok(objects)
}

/// `None` if the entry cannot be read.
fn value_of(entry: &Entry) -> Option<serde_json::Value> {
    serde_json::from_slice(&entry.value).ok()
}

/// All entries below a prefix at one revision, page by page.
async fn each_page(
    store: &dyn Store,
    prefix: &str,
    mut at: Option<Revision>,
    mut take: impl FnMut(&[Entry]),
) -> Result<Revision, StoreError> {
    let mut after = None;
    loop {
        let page = store.range(prefix, after.as_deref(), PAGE_LENGTH, at).await?;
        take(&page.entries);
        if !page.more {
            return Ok(page.revision);
        }
        at = Some(page.revision);
        after = page.entries.last().map(|entry| entry.key.clone());
    }
}

/// Feeds the caches without end. A watch that ends is restarted from the last applied revision.
async fn follow(shared: Arc<Shared>, store: Arc<dyn Store>, mut revision: Revision) {
    let mut pause = Duration::from_millis(10);
    loop {
        let error = match store.watch(ROOT, revision).await {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Some(Ok(WatchItem::Events(events))) => {
                        if let Err(error) = take(&shared, &*store, &events).await {
                            break error;
                        }
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
        tracing::warn!(%error, "watch of the store failed; watching again");
        if let StoreError::Compacted { .. } = error {
            match shared.fill(&*store).await {
                Ok(filled) => revision = filled,
                Err(error) => tracing::warn!(%error, "refill of the caches failed"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

async fn take(shared: &Shared, store: &dyn Store, events: &[Event]) -> Result<(), StoreError> {
    for event in events {
        shared.apply(store, event).await?;
    }
    Ok(())
}

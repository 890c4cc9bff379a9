//! Every object in memory as bytes, fed by one watch of the store: reads and watches never touch the disk.

mod changes;
mod resource;
mod table;
#[cfg(test)]
mod tests;
mod watchers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skep_api::custom::definition::is_definition;
use skep_api::{Kind, KindRef, Registry, Status, meta};
use skep_store::{Entry, Event, Revision, Store, StoreError, WatchItem};
use tokio::sync::watch;

pub(crate) use changes::{Change, ChangeKind, line};
pub(crate) use resource::{Counts, Resource};
pub(crate) use watchers::{Changes, Trigger};

use crate::definitions;
use crate::live_authorizer::{LiveAuthorizer, matters};
use crate::lock::RwLock;
use crate::object::{Object, key, prefix};
use table::{Place, Table};

const ROOT: &str = "/registry/";
/// Entries that are held twice, as stored and as sent, while the caches are filled.
const PAGE: usize = 2_048;
/// How long a read waits for the caches to reach the store before it says so.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// Reads everything once, then follows.
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

    /// The kinds that are served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.shared.table().registry.clone()
    }

    /// The cache of a kind's objects. Every kind of the registry has one.
    pub(crate) fn of(&self, kind: &Kind) -> Option<Arc<Resource>> {
        self.shared.table().places.get(&prefix(kind)).map(|place| place.resource.clone())
    }

    /// The object as the cache has it now; 404 if missing.
    pub(crate) fn get_or_404(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let found = self.of(kind).and_then(|resource| resource.get(&key(kind, namespace, name)));
        found.ok_or_else(|| Status::not_found(kind, name))
    }

    /// The kind that a definition made, in the version that is stored.
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
        let reached = tokio::time::timeout(PATIENCE, applied.wait_for(|at| *at >= wanted)).await;
        match reached {
            Ok(Ok(at)) => Ok(*at),
            _ => Err(StoreError::Unavailable("the watch cache is behind the store".to_owned())),
        }
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

    /// Fills the caches with the present; used at the start and after history was lost.
    async fn fill(&self, store: &dyn Store) -> Result<Revision, StoreError> {
        // Definitions first: they say how the objects of their kinds are to be read.
        let mut definitions = Vec::new();
        let of_definitions = definitions::kind().map(prefix).unwrap_or_default();
        let revision = each_page(store, &of_definitions, None, |entries| {
            definitions.extend(entries.iter().map(value_of));
        })
        .await?;
        let table = self.table().with_all(&definitions);
        let mut objects: HashMap<String, Vec<Arc<Object>>> = HashMap::new();
        each_page(store, ROOT, Some(revision), |entries| {
            for entry in entries {
                let Some((prefix, place)) = table.place_of(&entry.key) else { continue };
                let object = Object::from_entry(&place.kind, entry);
                if matters(&place.kind) {
                    self.authorizer.apply(&object.value());
                }
                match objects.get_mut(prefix) {
                    Some(list) => list.push(Arc::new(object)),
                    None => drop(objects.insert(prefix.to_owned(), vec![Arc::new(object)])),
                }
            }
        })
        .await?;
        for (prefix, place) in &table.places {
            place.resource.reset(objects.remove(prefix).unwrap_or_default(), revision);
        }
        self.set_table(table);
        self.applied.send_replace(revision);
        Ok(revision)
    }

    /// Takes an event over. Whoever hears of a definition finds its kind served.
    async fn apply(&self, store: &dyn Store, event: &Event) -> Result<(), StoreError> {
        let table = self.table();
        let Some((_, place)) = table.place_of(event.key()) else { return Ok(()) };
        if is_definition(&place.kind) {
            self.redefine(store, &table, event).await?;
        }
        match event {
            Event::Put { entry, .. } => {
                let object = Object::from_entry(&place.kind, entry);
                if matters(&place.kind) {
                    self.authorizer.apply(&object.value());
                }
                place.resource.put(Arc::new(object));
            }
            Event::Delete { revision, previous } => {
                if matters(&place.kind) {
                    self.authorizer.delete(&Object::from_entry(&place.kind, previous).value());
                }
                place.resource.delete(&previous.key, *revision);
            }
        }
        Ok(())
    }

    /// Makes the kinds anew after a definition came, changed or went. Objects whose schema is another now are read again.
    async fn redefine(&self, store: &dyn Store, table: &Table, event: &Event) -> Result<(), StoreError> {
        let (new, stale) = match event {
            Event::Put { entry, .. } => table.with(&value_of(entry)),
            Event::Delete { previous, .. } => (table.without(meta::name(&value_of(previous))), None),
        };
        if let Some((prefix, place)) = stale {
            let read = read(store, &prefix, &place, Some(event.revision())).await;
            let objects = match read {
                // The past is gone: the present holds at least as much, and the events that follow bring it up.
                Err(StoreError::Compacted { .. }) => read_present(store, &prefix, &place).await?,
                read => read?,
            };
            place.resource.reset(objects, event.revision());
        }
        self.set_table(new);
        Ok(())
    }
}

async fn read_present(
    store: &dyn Store,
    prefix: &str,
    place: &Place,
) -> Result<Vec<Arc<Object>>, StoreError> {
    read(store, prefix, place, None).await
}

async fn read(
    store: &dyn Store,
    prefix: &str,
    place: &Place,
    at: Option<Revision>,
) -> Result<Vec<Arc<Object>>, StoreError> {
    let mut objects = Vec::new();
    each_page(store, prefix, at, |entries| {
        objects.extend(entries.iter().map(|entry| Arc::new(Object::from_entry(&place.kind, entry))));
    })
    .await?;
    Ok(objects)
}

fn value_of(entry: &Entry) -> serde_json::Value {
    serde_json::from_slice(&entry.value).unwrap_or_default()
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
        let page = store.range(prefix, after.as_deref(), PAGE, at).await?;
        take(&page.entries);
        if !page.more {
            return Ok(page.revision);
        }
        at = Some(page.revision);
        after = page.entries.last().map(|entry| entry.key.clone());
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

async fn take(shared: &Shared, store: &dyn Store, events: &[Event]) -> Result<(), StoreError> {
    for event in events {
        shared.apply(store, event).await?;
    }
    Ok(())
}

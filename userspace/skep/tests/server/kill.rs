//! kill -9 during concurrent writes and a watch: acknowledged and watched changes survive.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::Server;

const WRITERS: usize = 16;
/// Objects of each writer; only it writes them.
const OBJECTS: usize = 5;

type Revision = u64;

/// The state of an object after a write.
#[derive(Clone, Debug, PartialEq)]
struct State {
    /// `None`: deleted.
    value: Option<String>,
    /// From the answer; the answer to a deletion has none.
    revision: Option<Revision>,
}

/// The writes to one object.
#[derive(Clone, Debug, Default)]
struct Writes {
    acknowledged: Option<State>,
    /// Sent when the server died; it may have been applied.
    in_flight: Option<State>,
}

type History = HashMap<String, Writes>;

fn revision(object: &ConfigMap) -> Revision {
    object.resource_version().unwrap().parse().unwrap()
}

fn value(object: &ConfigMap) -> Option<String> {
    object.data.as_ref()?.get("value").cloned()
}

fn object(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"value": value}})).unwrap()
}

/// Creates, replaces and deletes until the server is gone. Returns the last writes to each object.
async fn write(
    client: Client,
    writer: usize,
    round: usize,
    acknowledged: Arc<AtomicUsize>,
    mut history: History,
) -> History {
    let objects: Api<ConfigMap> = Api::default_namespaced(client);
    for step in 0.. {
        let name = format!("w{writer}-{}", step % OBJECTS);
        let writes = history.entry(name.clone()).or_default();
        let there = writes.acknowledged.as_ref().is_some_and(|state| state.value.is_some());
        let value = (!there || step % 3 != 2).then(|| format!("{round}-{step}"));
        writes.in_flight = Some(State { value: value.clone(), revision: None });
        let post = PostParams::default();
        let answer = match &value {
            None => objects.delete(&name, &DeleteParams::default()).await.map(|_| None),
            Some(value) if there => objects.replace(&name, &post, &object(&name, value)).await.map(Some),
            Some(value) => objects.create(&post, &object(&name, value)).await.map(Some),
        };
        match answer {
            Ok(stored) => {
                writes.acknowledged = Some(State { value, revision: stored.as_ref().map(revision) });
                writes.in_flight = None;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // No write of this test may be refused.
            Err(kube::Error::Api(status)) => panic!("{name}: {status:?}"),
            Err(_) => return history,
        }
    }
    history
}

/// The events of a watch: the last one of each object, and all by revision.
#[derive(Default)]
struct Watched {
    last: HashMap<String, (Revision, Option<String>)>,
    all: BTreeMap<Revision, (String, Option<String>)>,
}

type Events = BoxStream<'static, kube::Result<WatchEvent<ConfigMap>>>;

async fn watch(client: Client, from: Revision) -> Events {
    let objects: Api<ConfigMap> = Api::default_namespaced(client);
    objects.watch(&WatchParams::default().timeout(290), &from.to_string()).await.unwrap().boxed()
}

/// Collects events until the server is gone.
async fn collect(mut events: Events) -> Watched {
    let mut watched = Watched::default();
    while let Some(Ok(event)) = events.next().await {
        let (object, value) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object.clone(), value(&object)),
            WatchEvent::Deleted(object) => (object, None),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(error) => panic!("{error:?}"),
        };
        let (revision, name) = (revision(&object), object.name_any());
        let newest = watched.all.last_key_value().map_or(0, |(newest, _)| *newest);
        assert!(revision > newest, "revision {revision} came after {newest}");
        watched.all.insert(revision, (name.clone(), value.clone()));
        watched.last.insert(name, (revision, value));
    }
    watched
}

/// The objects and the revision of the list.
async fn list(client: Client) -> (HashMap<String, ConfigMap>, Revision) {
    let objects: Api<ConfigMap> = Api::default_namespaced(client);
    let list = objects.list(&ListParams::default()).await.unwrap();
    let revision = list.metadata.resource_version.unwrap().parse().unwrap();
    (list.items.into_iter().map(|object| (object.name_any(), object)).collect(), revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_and_no_watched_change_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let mut histories = vec![History::new(); WRITERS];
    for (round, kill_after) in [1, 150, 900].into_iter().enumerate() {
        let server = Server::start(folder.path(), &[]).await;
        let client = server.client().await;
        let (_, start) = list(client.clone()).await;
        let watcher = tokio::spawn(collect(watch(client.clone(), start).await));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut writers = JoinSet::new();
        for (writer, history) in histories.drain(..).enumerate() {
            let (client, acknowledged) = (client.clone(), acknowledged.clone());
            writers.spawn(async move { (writer, write(client, writer, round, acknowledged, history).await) });
        }
        while acknowledged.load(Ordering::Relaxed) < kill_after {
            assert!(writers.len() == WRITERS, "no writer ends before the server");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        server.kill();
        let mut done = writers.join_all().await;
        done.sort_by_key(|(writer, _)| *writer);
        histories = done.into_iter().map(|(_, history)| history).collect();
        let watched = watcher.await.unwrap();
        let server = Server::start(folder.path(), &[]).await;
        let (found, now) = list(server.client().await).await;
        assert!(watched.all.keys().all(|revision| *revision <= now));
        for history in &mut histories {
            for (name, writes) in history.iter_mut() {
                check(name, writes, &watched, found.get(name));
                let object = found.get(name);
                let is = State { value: object.and_then(value), revision: object.map(revision) };
                *writes = Writes { acknowledged: Some(is), in_flight: None };
            }
        }
        server.kill();
    }
}

fn check(name: &str, writes: &Writes, watched: &Watched, found: Option<&ConfigMap>) {
    let is = found.and_then(value);
    let fits = |state: &State| state.value == is;
    let first = State { value: None, revision: None };
    let acknowledged = writes.acknowledged.as_ref().unwrap_or(&first);
    assert!(
        fits(acknowledged) || writes.in_flight.as_ref().is_some_and(fits),
        "{name} is {is:?}, its writes were {writes:?}"
    );
    if let (Some(object), Some(acknowledged_revision)) = (found, acknowledged.revision) {
        let same = fits(acknowledged) && writes.in_flight.is_none();
        assert!(if same {
            revision(object) == acknowledged_revision
        } else {
            revision(object) >= acknowledged_revision
        });
    }
    // The watch had every change up to its last revision.
    let newest = watched.all.last_key_value().map_or(0, |(newest, _)| *newest);
    if let Some(revision) = acknowledged.revision.filter(|revision| *revision <= newest) {
        let event = watched.all.get(&revision);
        let wanted = (name.to_owned(), acknowledged.value.clone());
        assert!(event.is_none_or(|event| *event == wanted), "{name}: {event:?} is not {wanted:?}");
        assert!(event.is_some() || watched.last.get(name).is_none_or(|(last, _)| *last < revision));
    }
    // The last watched state is stored, or a later one.
    if let Some((last, value)) = watched.last.get(name) {
        match found {
            Some(object) if revision(object) == *last => assert_eq!(&is, value, "{name}"),
            Some(object) => assert!(revision(object) > *last, "{name} went back from revision {last}"),
            None => {
                assert!(value.is_none() || fits(acknowledged) || writes.in_flight.as_ref().is_some_and(fits))
            }
        }
    }
}

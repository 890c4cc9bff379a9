//! Feeds the garbage collector's graph and performs its decisions. Kinds that the controllers watch anyway are heard
//! from the runner; every other one is watched here by metadata only. Before anything is deleted the server is asked
//! for the object as it is now, and the delete names the uid and version that were judged.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::PartialObjectMeta,
    core::discovery::ApiResource,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    Heard,
    discovery::{Resource, discover},
    queue::Queue,
};
use crate::{
    action::Propagation,
    controllers::garbage_collector::{Decision, FOREGROUND, Graph, Item, ORPHAN, Owner, Uid},
    view::{Change, Key, Kind},
};

const MOST_AT_WORK: usize = 32;
/// New kinds come with definitions; their resource may need a moment to be served.
const DISCOVERY_SETTLE: Duration = Duration::from_millis(500);

enum Message {
    Object(u32, Box<ObjectMeta>),
    Gone(Box<ObjectMeta>),
    Begin(u32),
    End(u32),
    Discovered(Vec<Resource>),
}

/// How a job for one object ended.
struct Done {
    uid: Uid,
    /// The object as the server showed it; `None` if it has no such object.
    seen: Option<Option<ObjectMeta>>,
    absent: Vec<Uid>,
    present: Vec<Uid>,
    failed: bool,
    /// More is to be decided with what was learnt.
    again: bool,
}

#[derive(Default)]
struct State {
    graph: Graph,
    queue: Queue,
    resources: Vec<Arc<ApiResource>>,
    numbers: HashMap<(String, String), u32>,
    watches: HashMap<u32, AbortHandle>,
    listing: HashMap<u32, HashSet<Uid>>,
    unsynced: HashSet<u32>,
    heard_synced: bool,
    discovered: bool,
    /// Owners the server said it has; forgotten when the graph hears of them or their dependents are decided.
    present: HashSet<Uid>,
    working: usize,
}

/// `gone` is told the namespace of every object that ended of which the runner does not hear.
pub(crate) async fn run(
    client: Client,
    mut heard: mpsc::UnboundedReceiver<Heard>,
    gone: mpsc::UnboundedSender<String>,
) {
    let (sender, mut messages) = mpsc::channel(1024);
    let mut state = State::default();
    let mut watches = JoinSet::new();
    let mut jobs: JoinSet<Done> = JoinSet::new();
    watches.spawn(find_out(client.clone(), sender.clone(), Duration::ZERO));
    loop {
        state.start(&client, &mut jobs);
        let wake = super::wake_at(state.queue.next_due().filter(|_| state.ready()));
        tokio::select! {
            told = heard.recv() => match told {
                Some(Heard::Change(change)) => state.heard(&change),
                Some(Heard::Synced) => state.heard_synced = true,
                None => return,
            },
            Some(message) = messages.recv() => {
                if let Message::Gone(meta) = &message {
                    // Who counts may have ended with this run.
                    let _ = gone.send(crate::meta::namespace(meta).to_owned());
                }
                if let Some(again) = state.message(message, &client, &sender, &mut watches) {
                    watches.spawn(find_out(client.clone(), sender.clone(), again));
                }
            }
            Some(done) = jobs.join_next() => match done {
                Ok(done) => state.done(done),
                Err(error) => tracing::error!(%error, "a collection ended without an answer"),
            },
            () = wake => {}
        }
    }
}

/// Discovers, trying until the server answers.
async fn find_out(client: Client, sender: mpsc::Sender<Message>, wait: Duration) {
    tokio::time::sleep(wait).await;
    let mut pause = Duration::from_millis(100);
    loop {
        match discover(&client).await {
            Ok(resources) => return drop(sender.send(Message::Discovered(resources)).await),
            Err(error) => tracing::info!(%error, "resources not discovered yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

/// Kinds of which the runner's informers hold every object.
fn shared(group: &str, kind: &str) -> bool {
    let partial = [Kind::Lease, Kind::ConfigMap];
    Kind::ALL.iter().any(|k| !partial.contains(k) && k.group() == group && k.name() == kind)
}

impl State {
    fn ready(&self) -> bool {
        self.heard_synced && self.discovered && self.unsynced.is_empty()
    }

    fn number(&mut self, api: &ApiResource) -> u32 {
        let id = (api.group.clone(), api.kind.clone());
        if let Some(number) = self.numbers.get(&id) {
            return *number;
        }
        let number = u32::try_from(self.resources.len()).unwrap_or(u32::MAX);
        self.resources.push(Arc::new(api.clone()));
        self.numbers.insert(id, number);
        number
    }

    fn requeue(&mut self, uids: Vec<Uid>) {
        for uid in uids {
            self.queue.add((0, Key { namespace: "".into(), name: uid }));
        }
    }

    fn apply(&mut self, resource: u32, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return };
        self.present.remove(&uid);
        let again = self.graph.apply(uid, Item::new(resource, meta));
        self.requeue(again);
    }

    fn remove(&mut self, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return };
        self.present.remove(&uid);
        let again = self.graph.remove(&uid);
        self.requeue(again);
    }

    fn heard(&mut self, change: &Change) {
        let Some(kind) = change.object().map(|o| o.kind()).filter(|k| shared(k.group(), k.name())) else {
            return;
        };
        let api = ApiResource {
            group: kind.group().into(),
            version: kind.api_version().rsplit('/').next().unwrap_or_default().into(),
            api_version: kind.api_version().into(),
            kind: kind.name().into(),
            plural: super::io::plural(kind),
        };
        let number = self.number(&api);
        match (&change.new, &change.old) {
            (Some(new), _) => self.apply(number, new.meta()),
            (None, Some(old)) => self.remove(old.meta()),
            (None, None) => {}
        }
    }

    /// Takes in a watch's message; answers when to discover anew, if that is needed.
    fn message(
        &mut self,
        message: Message,
        client: &Client,
        sender: &mpsc::Sender<Message>,
        watches: &mut JoinSet<()>,
    ) -> Option<Duration> {
        match message {
            Message::Object(number, meta) => {
                if let (Some(seen), Some(uid)) = (self.listing.get_mut(&number), &meta.uid) {
                    seen.insert(uid.as_str().into());
                }
                self.apply(number, &meta);
                return self.defines_kinds(number).then_some(DISCOVERY_SETTLE);
            }
            Message::Gone(meta) => self.remove(&meta),
            Message::Begin(number) => drop(self.listing.insert(number, HashSet::new())),
            Message::End(number) => {
                self.unsynced.remove(&number);
                let seen = self.listing.remove(&number).unwrap_or_default();
                let gone: Vec<Uid> =
                    self.graph.of_resource(number).filter(|u| !seen.contains(*u)).cloned().collect();
                for uid in gone {
                    let again = self.graph.remove(&uid);
                    self.requeue(again);
                }
            }
            Message::Discovered(resources) => {
                self.discovered = true;
                self.watch(resources, client, sender, watches);
            }
        }
        None
    }

    fn defines_kinds(&self, number: u32) -> bool {
        let api = self.resources.get(number as usize);
        self.discovered
            && api.is_some_and(|a| a.kind == "CustomResourceDefinition")
            && !self.listing.contains_key(&number)
    }

    /// Starts watches of new resources, ends those of resources that are no more.
    fn watch(
        &mut self,
        resources: Vec<Resource>,
        client: &Client,
        sender: &mpsc::Sender<Message>,
        watches: &mut JoinSet<()>,
    ) {
        let mut served = HashSet::new();
        for resource in resources {
            let api = &resource.api;
            // Known by number even if not watched here: an owner of the kind can be asked for.
            let number = self.number(api);
            // Events are many, short-lived and own nothing.
            if !resource.can(&["list", "watch", "delete"])
                || api.kind == "Event"
                || shared(&api.group, &api.kind)
            {
                continue;
            }
            served.insert(number);
            if !self.watches.contains_key(&number) {
                self.unsynced.insert(number);
                let job = follow(client.clone(), number, resource.api.clone(), sender.clone());
                self.watches.insert(number, watches.spawn(job));
            }
        }
        let over: Vec<u32> = self.watches.keys().filter(|n| !served.contains(*n)).copied().collect();
        for number in over {
            if let Some(watch) = self.watches.remove(&number) {
                watch.abort();
            }
            self.unsynced.remove(&number);
            let gone: Vec<Uid> = self.graph.of_resource(number).cloned().collect();
            for uid in gone {
                let again = self.graph.remove(&uid);
                self.requeue(again);
            }
        }
    }

    fn start(&mut self, client: &Client, jobs: &mut JoinSet<Done>) {
        while self.ready() && self.working < MOST_AT_WORK {
            let Some((_, key)) = self.queue.take(Timestamp::now()) else { return };
            let uid = key.name.clone();
            let decision = self.graph.decide(&uid, &self.present);
            let target = self.graph.get(&uid).and_then(|item| {
                Some((self.resources.get(item.resource as usize)?.clone(), item.key.clone()))
            });
            match (decision, target) {
                (Decision::Nothing, _) | (_, None) => self.queue.done(&(0, key), false, Timestamp::now()),
                (Decision::Ask(owners), Some((_, at))) => {
                    let asked = owners.into_iter().map(|o| {
                        let known = self.resources.iter().find(|r| of_owner(r, &o)).cloned();
                        (o, known)
                    });
                    self.working += 1;
                    jobs.spawn(ask(client.clone(), uid, at.namespace, asked.collect()));
                }
                (decision, Some((api, at))) => {
                    let dependents = match &decision {
                        Decision::Orphan(uids) => self.places(uids),
                        _ => Vec::new(),
                    };
                    self.working += 1;
                    jobs.spawn(perform(client.clone(), uid, api, at, decision, dependents));
                }
            }
        }
    }

    fn places(&self, uids: &[Uid]) -> Vec<(Uid, Arc<ApiResource>, Key)> {
        uids.iter()
            .filter_map(|uid| {
                let item = self.graph.get(uid)?;
                Some((uid.clone(), self.resources.get(item.resource as usize)?.clone(), item.key.clone()))
            })
            .collect()
    }

    fn done(&mut self, done: Done) {
        self.working = self.working.saturating_sub(1);
        for uid in done.absent {
            self.graph.set_absent(uid);
        }
        self.present.extend(done.present);
        let resource = self.graph.get(&done.uid).map(|i| i.resource);
        match (done.seen, resource) {
            (Some(Some(meta)), Some(resource)) => self.apply(resource, &meta),
            (Some(None), _) => {
                let again = self.graph.remove(&done.uid);
                self.requeue(again);
            }
            _ => {}
        }
        let item = (0, Key { namespace: "".into(), name: done.uid });
        if done.again {
            self.queue.add(item.clone());
        }
        self.queue.done(&item, done.failed, Timestamp::now());
    }
}

fn of_owner(api: &ApiResource, owner: &Owner) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
    api.kind == *owner.kind && api.group == group
}

async fn follow(client: Client, number: u32, api: Arc<ApiResource>, sender: mpsc::Sender<Message>) {
    let objects: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, api.as_ref());
    let mut stream = pin!(watcher(objects, watcher::Config::default()).default_backoff());
    while let Some(step) = stream.next().await {
        let message = match step {
            Ok(watcher::Event::Init) => Message::Begin(number),
            Ok(watcher::Event::InitDone) => Message::End(number),
            Ok(watcher::Event::InitApply(o) | watcher::Event::Apply(o)) => {
                Message::Object(number, Box::new(o.metadata))
            }
            Ok(watcher::Event::Delete(o)) => Message::Gone(Box::new(o.metadata)),
            Err(error) => {
                tracing::debug!(kind = api.kind, %error, "metadata watch interrupted");
                continue;
            }
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

fn unfinished(uid: Uid) -> Done {
    Done { uid, seen: None, absent: Vec::new(), present: Vec::new(), failed: false, again: false }
}

/// Asks whether owners exist.
async fn ask(
    client: Client,
    uid: Uid,
    namespace: Arc<str>,
    owners: Vec<(Owner, Option<Arc<ApiResource>>)>,
) -> Done {
    let mut done = Done { again: true, ..unfinished(uid) };
    for (owner, api) in owners {
        // A kind that nobody serves cannot be asked for: such an owner counts as living, as upstream.
        let Some(api) = api else {
            done.present.push(owner.uid);
            continue;
        };
        match get(&client, &api, &Key { namespace: namespace.clone(), name: owner.name.clone() }).await {
            Ok(Some(meta)) if meta.uid.as_deref() == Some(&*owner.uid) => done.present.push(owner.uid),
            Ok(_) => done.absent.push(owner.uid),
            Err(error) => {
                tracing::info!(owner = %owner.name, %error, "owner not asked for");
                return Done { failed: true, again: false, ..done };
            }
        }
    }
    done
}

fn objects(client: &Client, api: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    match namespace {
        "" => Api::all_with(client.clone(), api),
        _ => Api::namespaced_with(client.clone(), namespace, api),
    }
}

/// The metadata of an object. A cluster-wide owner of a namespaced dependent is looked for without the namespace.
async fn get(client: &Client, api: &ApiResource, key: &Key) -> kube::Result<Option<ObjectMeta>> {
    let found = objects(client, api, &key.namespace).get_metadata_opt(&key.name).await?;
    let found = match found {
        None if !key.namespace.is_empty() => {
            objects(client, api, "").get_metadata_opt(&key.name).await.unwrap_or(None)
        }
        found => found,
    };
    Ok(found.map(|o| o.metadata))
}

async fn perform(
    client: Client,
    uid: Uid,
    api: Arc<ApiResource>,
    key: Key,
    decision: Decision,
    dependents: Vec<(Uid, Arc<ApiResource>, Key)>,
) -> Done {
    let done = unfinished(uid.clone());
    match try_perform(&client, &uid, &api, &key, decision, dependents).await {
        Ok(seen) => Done { seen, ..done },
        // Gone or changed meanwhile: the watch tells, and back-off asks again.
        Err(error) => {
            tracing::debug!(kind = api.kind, %key, %error, "will collect again");
            Done { failed: true, ..done }
        }
    }
}

async fn try_perform(
    client: &Client,
    uid: &Uid,
    api: &ApiResource,
    key: &Key,
    decision: Decision,
    dependents: Vec<(Uid, Arc<ApiResource>, Key)>,
) -> kube::Result<Option<Option<ObjectMeta>>> {
    let target = objects(client, api, &key.namespace);
    let live = match target.get_metadata_opt(&key.name).await? {
        Some(o) if o.metadata.uid.as_deref() == Some(uid) => o.metadata,
        _ => return Ok(Some(None)),
    };
    match decision {
        Decision::Delete(propagation) => {
            delete(&target, &live, propagation).await?;
            Ok(None)
        }
        Decision::DropOwners(gone) => {
            let keep: Vec<_> = live
                .owner_references
                .iter()
                .flatten()
                .filter(|o| !gone.iter().any(|g| **g == *o.uid))
                .collect();
            patch(&target, &live, json!({"ownerReferences": keep})).await.map(|m| Some(Some(m)))
        }
        Decision::Unblock => {
            let mut owners = live.owner_references.clone().unwrap_or_default();
            owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
            patch(&target, &live, json!({"ownerReferences": owners})).await.map(|m| Some(Some(m)))
        }
        Decision::Orphan(_) => {
            for (_, api, at) in dependents {
                let dependent = objects(client, &api, &at.namespace);
                let Some(object) = dependent.get_metadata_opt(&at.name).await? else { continue };
                let keep: Vec<_> =
                    object.metadata.owner_references.iter().flatten().filter(|o| o.uid != **uid).collect();
                patch(&dependent, &object.metadata, json!({"ownerReferences": keep})).await?;
            }
            without_finalizer(&target, &live, ORPHAN).await
        }
        Decision::Finish => without_finalizer(&target, &live, FOREGROUND).await,
        Decision::Nothing | Decision::Ask(_) => Ok(None),
    }
}

async fn delete(
    target: &Api<DynamicObject>,
    live: &ObjectMeta,
    propagation: Propagation,
) -> kube::Result<()> {
    let params = DeleteParams {
        propagation_policy: Some(match propagation {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        }),
        preconditions: Some(Preconditions {
            uid: live.uid.clone(),
            resource_version: live.resource_version.clone(),
        }),
        ..Default::default()
    };
    match target.delete(live.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

async fn patch(
    target: &Api<DynamicObject>,
    live: &ObjectMeta,
    change: serde_json::Value,
) -> kube::Result<ObjectMeta> {
    let mut metadata = change;
    if let Some(fields) = metadata.as_object_mut() {
        fields.insert("uid".into(), json!(live.uid));
        fields.insert("resourceVersion".into(), json!(live.resource_version));
    }
    let body = Patch::Merge(json!({"metadata": metadata}));
    let name = live.name.as_deref().unwrap_or_default();
    target.patch_metadata(name, &PatchParams::default(), &body).await.map(|o| o.metadata)
}

async fn without_finalizer(
    target: &Api<DynamicObject>,
    live: &ObjectMeta,
    finalizer: &str,
) -> kube::Result<Option<Option<ObjectMeta>>> {
    let keep: Vec<&String> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    match patch(target, live, json!({"finalizers": keep})).await {
        // The last finalizer's removal ends the object; a watch tells that.
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(None)),
        Err(error) => Err(error),
    }
}

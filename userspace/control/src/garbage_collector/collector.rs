//! What the collector knows and works on: the graph, the numbers of resources, the watches and the queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::core::discovery::ApiResource;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::graph::{GcDecision, GcObject, Graph, Owner, Uid};
use super::perform::{CollectionResult, Shown, Target, check_owners, perform};
use super::watch::{Message, follow};
use crate::cache::{Change, Key, Kind};
use crate::discovery::Resource;
use crate::hub::{InformerEvent, is_partial};
use crate::requests::plural;
use crate::work_queue::WorkQueue;

const MAX_ACTIVE_JOBS: usize = 32;
/// New kinds come with definitions; their resource may need a moment to be served.
const DISCOVERY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Collector {
    graph: Graph,
    queue: WorkQueue,
    /// By number. A resource keeps its number.
    resources: Vec<Arc<ApiResource>>,
    numbers: HashMap<(String, String), u32>,
    watches: HashMap<u32, AbortHandle>,
    /// What the lists under way have shown.
    listed: HashMap<u32, HashSet<Uid>>,
    /// Watched resources whose first list is not complete.
    unsynced: HashSet<u32>,
    hub_synced: bool,
    discovered: bool,
    /// Owners that the server has by its own answer; forgotten when the graph gets or loses them.
    present: HashSet<Uid>,
    active_jobs: usize,
}

/// Kinds of which the hub holds every object.
fn is_in_hub(group: &str, kind: &str) -> bool {
    Kind::ALL.iter().any(|k| !is_partial(*k) && k.group() == group && k.name() == kind)
}

impl Collector {
    /// Nothing is decided before everything was listed.
    fn synced(&self) -> bool {
        self.hub_synced && self.discovered && self.unsynced.is_empty()
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

    fn enqueue(&mut self, uids: Vec<Uid>) {
        for uid in uids {
            self.queue.add((0, Key { namespace: "".into(), name: uid }));
        }
    }

    fn apply(&mut self, resource: u32, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return };
        self.present.remove(&uid);
        let affected = self.graph.apply(uid, GcObject::new(resource, meta));
        self.enqueue(affected);
    }

    fn remove(&mut self, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return };
        self.present.remove(&uid);
        self.remove_uid(&uid);
    }

    fn remove_uid(&mut self, uid: &Uid) {
        let affected = self.graph.remove(uid);
        self.enqueue(affected);
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.queue.next_due().filter(|_| self.synced())
    }

    pub(super) fn accept(&mut self, event: &InformerEvent) {
        match event {
            InformerEvent::Change(change) => self.change(change),
            InformerEvent::Synced => self.hub_synced = true,
        }
    }

    fn change(&mut self, change: &Change) {
        let Some(kind) = change.object().map(|o| o.kind()).filter(|k| is_in_hub(k.group(), k.name())) else {
            return;
        };
        let api = ApiResource {
            group: kind.group().into(),
            version: kind.api_version().rsplit('/').next().unwrap_or_default().into(),
            api_version: kind.api_version().into(),
            kind: kind.name().into(),
            plural: plural(kind),
        };
        let number = self.number(&api);
        match (&change.new, &change.old) {
            (Some(new), _) => self.apply(number, new.meta()),
            (None, Some(old)) => self.remove(old.meta()),
            (None, None) => {}
        }
    }

    /// Stores a message. Returns the pause before the next discovery, if one is needed.
    pub(super) fn message(
        &mut self,
        message: Message,
        client: &Client,
        sender: &mpsc::Sender<Message>,
        watches: &mut JoinSet<()>,
    ) -> Option<Duration> {
        match message {
            Message::Apply(number, meta) => {
                if let (Some(listed), Some(uid)) = (self.listed.get_mut(&number), &meta.uid) {
                    listed.insert(uid.as_str().into());
                }
                self.apply(number, &meta);
                return self.defines_kinds(number).then_some(DISCOVERY_PAUSE);
            }
            Message::Delete(meta) => self.remove(&meta),
            Message::Init(number) => drop(self.listed.insert(number, HashSet::new())),
            Message::InitDone(number) => {
                self.unsynced.remove(&number);
                let listed = self.listed.remove(&number).unwrap_or_default();
                self.remove_all_but(number, &listed);
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
            && !self.listed.contains_key(&number)
    }

    /// Starts the watches of new resources and ends those of resources that are no longer served.
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
            // Also a resource that is not watched gets a number: the server can be asked for an owner of the kind.
            let number = self.number(api);
            // Events are many, short-lived and own nothing.
            if !resource.can(&["list", "watch", "delete"])
                || api.kind == "Event"
                || is_in_hub(&api.group, &api.kind)
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
        let ended: Vec<u32> = self.watches.keys().filter(|n| !served.contains(*n)).copied().collect();
        for number in ended {
            if let Some(watch) = self.watches.remove(&number) {
                watch.abort();
            }
            self.unsynced.remove(&number);
            self.remove_all_but(number, &HashSet::new());
        }
    }

    fn remove_all_but(&mut self, resource: u32, listed: &HashSet<Uid>) {
        let uids = self.graph.of_resource(resource).filter(|uid| !listed.contains(*uid));
        let gone: Vec<Uid> = uids.cloned().collect();
        gone.iter().for_each(|uid| self.remove_uid(uid));
    }

    pub(super) fn start(&mut self, client: &Client, jobs: &mut JoinSet<CollectionResult>) {
        while self.synced() && self.active_jobs < MAX_ACTIVE_JOBS {
            let Some((_, key)) = self.queue.take(Timestamp::now()) else { return };
            let decision = self.graph.decide(&key.name, &self.present);
            match (decision, self.target(&key.name)) {
                (GcDecision::Nothing, _) | (_, None) => self.queue.done(&(0, key), false, Timestamp::now()),
                (GcDecision::CheckOwners(owners), Some((uid, _, key))) => {
                    let owners = owners.into_iter().map(|owner| {
                        let resource = self.resources.iter().find(|r| is_of(r, &owner)).cloned();
                        (owner, resource)
                    });
                    self.active_jobs += 1;
                    jobs.spawn(check_owners(client.clone(), uid, key.namespace, owners.collect()));
                }
                (decision, Some(target)) => {
                    let dependents = match &decision {
                        GcDecision::Orphan(uids) => uids.iter().filter_map(|uid| self.target(uid)).collect(),
                        _ => Vec::new(),
                    };
                    self.active_jobs += 1;
                    jobs.spawn(perform(client.clone(), target, decision, dependents));
                }
            }
        }
    }

    fn target(&self, uid: &Uid) -> Option<Target> {
        let item = self.graph.get(uid)?;
        Some((uid.clone(), self.resources.get(item.resource as usize)?.clone(), item.key.clone()))
    }

    pub(super) fn done(&mut self, done: CollectionResult) {
        self.active_jobs = self.active_jobs.saturating_sub(1);
        for uid in done.absent_owners {
            self.graph.set_absent(uid);
        }
        self.present.extend(done.present_owners);
        let resource = self.graph.get(&done.uid).map(|i| i.resource);
        match (done.shown, resource) {
            (Shown::Present(meta), Some(resource)) => self.apply(resource, &meta),
            (Shown::Missing, _) => self.remove_uid(&done.uid),
            _ => {}
        }
        let item = (0, Key { namespace: "".into(), name: done.uid });
        if done.requeue {
            self.queue.add(item.clone());
        }
        self.queue.done(&item, done.failed, Timestamp::now());
    }
}

/// Whether the owner is of this resource.
fn is_of(api: &ApiResource, owner: &Owner) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
    api.kind == *owner.kind && api.group == group
}

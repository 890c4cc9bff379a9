//! Nodes with their pods, updated change by change. PURE.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use skep_api::fit::{Amounts, allocatable, host_ports, requested, weight};

use super::classes::{ClassKey, Classes};
use super::room::{Demand, Room};
use super::topology::Topologies;
use super::volumes::Volumes;
use crate::cache::{Change, Key, Object};
use crate::controllers::pods::{finished, node_name};
use crate::meta::{self, Labels};

/// A pod on a node, with values computed once.
#[derive(Clone, Debug)]
pub(super) struct PlacedPod {
    pub(super) pod: Arc<Pod>,
    pub(super) priority: i32,
    pub(super) started: Timestamp,
    pub(super) demand: Demand,
    class: Arc<ClassKey>,
    weight: Amounts,
}

/// A node and its pods.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeInfo {
    /// `None` if pods are bound to a node that is not known yet.
    pub(super) node: Option<Arc<Node>>,
    pub(super) room: Room,
    pub(super) pods: BTreeMap<Key, PlacedPod>,
    pub(super) weight: Amounts,
    /// Number of pods of each controller, by its uid, without terminating ones.
    pub(super) owners: HashMap<String, usize>,
    /// Number of pods of each priority.
    priorities: BTreeMap<i32, usize>,
    /// Bytes of the images on the node, by each of their names.
    pub(super) images: HashMap<String, i64>,
}

/// The cluster with the decisions that are not written yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) nodes: BTreeMap<Arc<str>, NodeInfo>,
    /// The names of known nodes, sorted.
    known: Vec<Arc<str>>,
    pub(super) namespaces: HashMap<String, Labels>,
    /// The node of each pod.
    node_of: HashMap<Key, Arc<str>>,
    pub(super) classes: Classes,
    /// Nodes with pods of each controller, by its uid.
    owners: HashMap<String, BTreeSet<Arc<str>>>,
    /// Number of nodes with each image.
    images: HashMap<String, usize>,
    /// Pods whose victims are terminating, and their nominated nodes.
    nominations: HashMap<Key, Nomination>,
    /// Their keys, by node.
    nominated: HashMap<Arc<str>, BTreeSet<Key>>,
    pub(super) volumes: Volumes,
    pub(super) topologies: Topologies,
}

/// A node that has room reserved for a pod.
#[derive(Clone, Debug)]
struct Nomination {
    node: Arc<str>,
    priority: i32,
    demand: Demand,
}

fn demand(pod: &Pod) -> Demand {
    Demand { requested: requested(pod), ports: host_ports(pod) }
}

impl PlacedPod {
    fn new(pod: Arc<Pod>) -> PlacedPod {
        PlacedPod {
            class: Arc::new(ClassKey::of(&pod)),
            priority: priority(&pod),
            started: started(&pod),
            demand: demand(&pod),
            weight: weight(&pod),
            pod,
        }
    }
}

impl NodeInfo {
    pub(super) fn insert(&mut self, key: Key, placed: PlacedPod) {
        self.room.add(&placed.demand);
        self.weight.add(&placed.weight);
        if let Some(owner) = owner_of(&placed.pod) {
            *self.owners.entry(owner.to_owned()).or_default() += 1;
        }
        *self.priorities.entry(placed.priority).or_default() += 1;
        self.pods.insert(key, placed);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<PlacedPod> {
        let placed = self.pods.remove(key)?;
        self.room.subtract(&placed.demand);
        self.weight.subtract(&placed.weight);
        decrement(&mut self.owners, owner_of(&placed.pod).unwrap_or_default());
        if let Some(count) = self.priorities.get_mut(&placed.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&placed.priority);
            }
        }
        Some(placed)
    }

    /// Whether a pod of lower priority is here.
    pub(super) fn has_lower_priority(&self, than: i32) -> bool {
        self.priorities.first_key_value().is_some_and(|(least, _)| *least < than)
    }

    fn is_unused(&self) -> bool {
        self.node.is_none() && self.pods.is_empty()
    }
}

impl Snapshot {
    /// Applies a change of a node, a pod, a namespace, a claim, a volume or a class; others are ignored.
    pub(super) fn apply(&mut self, change: &Change) {
        match (&change.new, &change.old) {
            (Some(Object::Node(node)), _) => self.put_node(node.clone()),
            (None, Some(Object::Node(node))) => self.delete_node(meta::name(&node.metadata)),
            (Some(Object::Pod(pod)), _) => self.put_pod(pod.clone()),
            (None, Some(Object::Pod(pod))) => self.delete_pod(&Key::of(&pod.metadata)),
            (Some(Object::Namespace(namespace)), _) => self.put_namespace(namespace),
            (None, Some(Object::Namespace(namespace))) => {
                self.namespaces.remove(meta::name(&namespace.metadata));
            }
            _ => drop(self.volumes.apply(change)),
        }
    }

    fn put_namespace(&mut self, namespace: &Namespace) {
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        self.namespaces.insert(meta::name(&namespace.metadata).to_owned(), labels);
    }

    fn put_node(&mut self, node: Arc<Node>) {
        let info = self.nodes.entry(meta::name(&node.metadata).into()).or_default();
        let is_like = |old: &Arc<Node>| old.spec == node.spec && old.metadata.labels == node.metadata.labels;
        if !info.node.as_ref().is_some_and(is_like) {
            self.topologies.forget();
        }
        (info.room.allocatable, info.room.max_pods) = allocatable(&node);
        let images = |node: &Node| node.status.as_ref().and_then(|status| status.images.clone());
        if info.node.as_ref().is_none_or(|old| images(old) != images(&node)) {
            let present = images_of(&node);
            present.keys().for_each(|image| *self.images.entry(image.clone()).or_default() += 1);
            let old = std::mem::replace(&mut info.images, present);
            remove_images(&mut self.images, &old);
        }
        info.node = Some(node.clone());
        let name = meta::name(&node.metadata);
        if let Err(at) = self.known.binary_search_by(|known| (**known).cmp(name)) {
            self.known.insert(at, name.into());
        }
    }

    /// What was reserved on the node ends with it: a later node of the same name is another one.
    fn delete_node(&mut self, name: &str) {
        for key in self.nominated.remove(name).into_iter().flatten() {
            self.nominations.remove(&key);
        }
        self.topologies.forget();
        if let Ok(at) = self.known.binary_search_by(|known| (**known).cmp(name)) {
            self.known.remove(at);
        }
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            remove_images(&mut self.images, &std::mem::take(&mut info.images));
            if info.is_unused() {
                self.nodes.remove(name);
            }
        }
    }

    /// A pod that is bound and not finished takes room. Of a pod that is not bound an assumed node stays.
    fn put_pod(&mut self, pod: Arc<Pod>) {
        let key = Key::of(&pod.metadata);
        if finished(&pod) {
            return self.delete_pod(&key);
        }
        let name = node_name(&pod);
        if name.is_empty() {
            return;
        }
        let name: Arc<str> = name.into();
        self.put_on_node(key, pod, name);
    }

    fn put_on_node(&mut self, key: Key, pod: Arc<Pod>, name: Arc<str>) {
        self.delete_pod(&key);
        self.put_back(key, PlacedPod::new(pod), name);
    }

    /// Puts a removed pod back.
    pub(super) fn put_back(&mut self, key: Key, mut placed: PlacedPod, name: Arc<str>) {
        if let Some(owner) = owner_of(&placed.pod) {
            self.owners.entry(owner.to_owned()).or_default().insert(name.clone());
        }
        placed.class = self.classes.insert(placed.class, &placed.pod, &name);
        self.volumes.pod_placed(&placed.pod);
        self.nodes.entry(name.clone()).or_default().insert(key.clone(), placed);
        self.node_of.insert(key, name);
    }

    /// Counts a decided pod as if it were bound.
    pub(super) fn assume(&mut self, pod: &Arc<Pod>, node: &Arc<str>) {
        self.put_on_node(Key::of(&pod.metadata), pod.clone(), node.clone());
    }

    pub(super) fn delete_pod(&mut self, key: &Key) {
        self.remove_pod(key);
    }

    /// Removes a pod from its node; it may be put back.
    pub(super) fn remove_pod(&mut self, key: &Key) -> Option<PlacedPod> {
        let name = self.node_of.remove(key)?;
        let info = self.nodes.get_mut(&name)?;
        let placed = info.remove(key)?;
        self.classes.remove(&placed.class, &placed.pod, &name);
        self.volumes.pod_gone(&placed.pod);
        if let Some(owner) = owner_of(&placed.pod).filter(|owner| !info.owners.contains_key(*owner))
            && let Some(nodes) = self.owners.get_mut(owner)
        {
            nodes.remove(&name);
            if nodes.is_empty() {
                self.owners.remove(owner);
            }
        }
        if info.is_unused() {
            self.nodes.remove(&name);
        }
        Some(placed)
    }

    /// Known nodes, by name.
    pub(super) fn known(&self) -> impl Iterator<Item = (&Arc<str>, &NodeInfo, &Arc<Node>)> {
        self.nodes.iter().filter_map(|(name, info)| Some((name, info, info.node.as_ref()?)))
    }

    /// Their names in a circle that begins where the seed says.
    pub(super) fn known_names(&self, seed: u64) -> impl Iterator<Item = &Arc<str>> {
        let start = usize::try_from(seed).unwrap_or(0) % self.known.len().max(1);
        let (before, from) = self.known.split_at(start);
        from.iter().chain(before)
    }

    /// Known nodes in the same circle.
    pub(super) fn known_from(&self, seed: u64) -> impl Iterator<Item = (&Arc<str>, &NodeInfo, &Arc<Node>)> {
        let first = self.known_names(seed).next();
        let from = first.map(|first| self.nodes.range::<Arc<str>, _>(first..));
        let before = first.map(|first| self.nodes.range::<Arc<str>, _>(..first));
        let circle = from.into_iter().flatten().chain(before.into_iter().flatten());
        circle.filter_map(|(name, info)| Some((name, info, info.node.as_ref()?)))
    }

    pub(super) fn known_count(&self) -> usize {
        self.known.len()
    }

    /// The share of nodes that have an image.
    pub(super) fn share_of_nodes(&self, image: &str) -> f64 {
        let there = self.images.get(image).copied().unwrap_or(0);
        there as f64 / self.nodes.len().max(1) as f64
    }

    /// Known nodes with pods of a controller.
    pub(super) fn of_owner(&self, uid: &str) -> impl Iterator<Item = (&NodeInfo, &Arc<Node>)> {
        self.owners.get(uid).into_iter().flatten().filter_map(|name| self.known_node(name))
    }

    pub(super) fn known_node(&self, name: &str) -> Option<(&NodeInfo, &Arc<Node>)> {
        let info = self.nodes.get(name)?;
        Some((info, info.node.as_ref()?))
    }

    /// Reserves room on a node for a pod whose victims are terminating.
    pub(super) fn nominate(&mut self, pod: &Arc<Pod>, node: &Arc<str>) {
        let key = Key::of(&pod.metadata);
        self.withdraw(&key);
        self.nominated.entry(node.clone()).or_default().insert(key.clone());
        let nomination = Nomination { node: node.clone(), priority: priority(pod), demand: demand(pod) };
        self.nominations.insert(key, nomination);
    }

    /// Ends the reservation for a pod; whether there was one.
    pub(super) fn withdraw(&mut self, key: &Key) -> bool {
        let Some(Nomination { node, .. }) = self.nominations.remove(key) else { return false };
        if let Some(keys) = self.nominated.get_mut(&node) {
            keys.remove(key);
            if keys.is_empty() {
                self.nominated.remove(&node);
            }
        }
        true
    }

    pub(super) fn nomination(&self, pod: &Pod) -> Option<&Arc<str>> {
        if self.nominations.is_empty() {
            return None;
        }
        self.nominations.get(&Key::of(&pod.metadata)).map(|nomination| &nomination.node)
    }

    /// The room less that of nominated pods that have at least the priority of this pod; `None` if there are none.
    pub(super) fn with_nominated(&self, name: &str, room: &Room, pod: &Pod) -> Option<Room> {
        let keys = self.nominated.get(name)?;
        let own = Key::of(&pod.metadata);
        let own_priority = priority(pod);
        let others = keys.iter().filter(|key| **key != own && !self.node_of.contains_key(*key));
        let others = others.filter_map(|key| self.nominations.get(key));
        let mut fuller = None;
        for other in others.filter(|other| other.priority >= own_priority) {
            fuller.get_or_insert_with(|| room.clone()).add(&other.demand);
        }
        fuller
    }

    /// Frees the room of the pod with this uid, unless it was bound.
    pub(super) fn release_assumed(&mut self, key: &Key, uid: &str) {
        let placed = self.node_of.get(key).and_then(|name| self.nodes.get(name)?.pods.get(key));
        if placed.is_some_and(|placed| node_name(&placed.pod).is_empty()) {
            self.release(key, uid);
        }
    }

    /// Frees the room of the pod with this uid, not of a later one of the same name.
    pub(super) fn release(&mut self, key: &Key, uid: &str) {
        let placed = self.node_of.get(key).and_then(|name| self.nodes.get(name)?.pods.get(key));
        if placed.is_some_and(|placed| meta::uid(&placed.pod.metadata) == uid) {
            self.delete_pod(key);
        }
    }
}

/// An image's name with a tag, as kubelets report it.
pub(super) fn with_tag(image: &str) -> String {
    match (image.rfind(':'), image.rfind('/')) {
        (Some(colon), slash) if slash.is_none_or(|slash| slash < colon) => image.to_owned(),
        _ => format!("{image}:latest"),
    }
}

fn images_of(node: &Node) -> HashMap<String, i64> {
    let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
    let names = images.flat_map(|image| {
        let size = image.size_bytes.unwrap_or(0);
        image.names.iter().flatten().map(move |name| (with_tag(name), size))
    });
    names.collect()
}

fn remove_images(counts: &mut HashMap<String, usize>, images: &HashMap<String, i64>) {
    images.keys().for_each(|image| decrement(counts, image));
}

fn decrement(counts: &mut HashMap<String, usize>, of: &str) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

pub(super) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

fn started(pod: &Pod) -> Timestamp {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.map_or_else(|| meta::created(&pod.metadata), |time| time.0)
}

/// The uid of the controller whose pods are spread. A terminating pod does not count: its successor may go to its node.
fn owner_of(pod: &Pod) -> Option<&str> {
    if meta::terminating(&pod.metadata) {
        return None;
    }
    meta::controller_of(&pod.metadata).map(|owner| owner.uid.as_str())
}

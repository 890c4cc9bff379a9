//! Nodes with the pods on them, kept up change by change. PURE.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use super::filter::Wanted;
use super::resources::{Resources, allocatable, requested, weight};
use crate::controllers::pods::{finished, node_name};
use crate::meta::{self, Labels};
use crate::view::{Change, Key, Object};

/// A host port in use: protocol, address (empty: all of them), number.
pub(super) type HostPort = (String, String, i32);

/// A pod on a node.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) pod: Arc<Pod>,
    requested: Resources,
    weight: Resources,
    ports: Vec<HostPort>,
}

/// A node, and what is on it.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeInfo {
    /// `None`: pods are bound to it that has not been seen yet.
    pub(super) node: Option<Arc<Node>>,
    pub(super) allocatable: Resources,
    pub(super) most_pods: i64,
    pub(super) pods: BTreeMap<Key, Placed>,
    pub(super) requested: Resources,
    pub(super) weight: Resources,
    pub(super) ports: BTreeSet<HostPort>,
    /// Pods a controller has here, by its uid.
    pub(super) owners: HashMap<String, usize>,
    /// Those of `pods` that have affinity or anti-affinity to pods.
    pub(super) choosy: BTreeSet<Key>,
    /// Bytes of the images that are here, by each of their names.
    pub(super) images: HashMap<String, i64>,
}

/// The cluster as the scheduler sees it: what is, and what it has decided already.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) nodes: BTreeMap<Arc<str>, NodeInfo>,
    pub(super) namespaces: HashMap<String, Labels>,
    /// Where each pod is.
    places: HashMap<Key, Arc<str>>,
    /// Nodes with pods that have affinity or anti-affinity to pods.
    choosy: BTreeSet<Arc<str>>,
    /// Nodes with pods of each controller, by its uid.
    owners: HashMap<String, BTreeSet<Arc<str>>>,
    /// On how many nodes each image is.
    images: HashMap<String, usize>,
    /// Pods that wait for room that is being made for them, and where.
    nominations: HashMap<Key, (Arc<Pod>, Arc<str>)>,
}

impl Placed {
    fn new(pod: Arc<Pod>) -> Placed {
        Placed { requested: requested(&pod), weight: weight(&pod), ports: host_ports(&pod), pod }
    }
}

impl NodeInfo {
    fn insert(&mut self, key: Key, placed: Placed) {
        self.requested.add(&placed.requested);
        self.weight.add(&placed.weight);
        self.ports.extend(placed.ports.iter().cloned());
        if let Some(owner) = meta::controller_of(&placed.pod.metadata) {
            *self.owners.entry(owner.uid.clone()).or_default() += 1;
        }
        if is_choosy(&placed.pod) {
            self.choosy.insert(key.clone());
        }
        self.pods.insert(key, placed);
    }

    /// Returns the uid of the pod's controller.
    fn remove(&mut self, key: &Key) -> Option<String> {
        let placed = self.pods.remove(key)?;
        self.requested.subtract(&placed.requested);
        self.weight.subtract(&placed.weight);
        // Two pods never hold the same port, but a finished one may have left it to the next.
        self.ports = self.pods.values().flat_map(|placed| placed.ports.iter().cloned()).collect();
        self.choosy.remove(key);
        let owner = meta::controller_of(&placed.pod.metadata)?.uid.clone();
        if let Some(count) = self.owners.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&owner);
            }
        }
        Some(owner)
    }

    fn is_forgotten(&self) -> bool {
        self.node.is_none() && self.pods.is_empty()
    }
}

impl Snapshot {
    /// Takes in a change of a node, a pod or a namespace; others are not looked at.
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
            _ => {}
        }
    }

    fn put_namespace(&mut self, namespace: &Namespace) {
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        self.namespaces.insert(meta::name(&namespace.metadata).to_owned(), labels);
    }

    fn put_node(&mut self, node: Arc<Node>) {
        let info = self.nodes.entry(meta::name(&node.metadata).into()).or_default();
        (info.allocatable, info.most_pods) = allocatable(&node);
        let images = |node: &Node| node.status.as_ref().and_then(|status| status.images.clone());
        if info.node.as_ref().is_none_or(|old| images(old) != images(&node)) {
            let present = images_of(&node);
            present.keys().for_each(|image| *self.images.entry(image.clone()).or_default() += 1);
            let old = std::mem::replace(&mut info.images, present);
            forget_images(&mut self.images, &old);
        }
        info.node = Some(node);
    }

    fn delete_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.node = None;
            forget_images(&mut self.images, &std::mem::take(&mut info.images));
            if info.is_forgotten() {
                self.nodes.remove(name);
            }
        }
    }

    /// A pod that is bound and not finished takes room; of others only an assumed place stays.
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
        self.place(key, pod, name);
    }

    fn place(&mut self, key: Key, pod: Arc<Pod>, name: Arc<str>) {
        self.delete_pod(&key);
        if is_choosy(&pod) {
            self.choosy.insert(name.clone());
        }
        if let Some(owner) = meta::controller_of(&pod.metadata) {
            self.owners.entry(owner.uid.clone()).or_default().insert(name.clone());
        }
        self.nodes.entry(name.clone()).or_default().insert(key.clone(), Placed::new(pod));
        self.places.insert(key, name);
    }

    /// Takes a decision as done: its room is not given to another pod.
    pub(super) fn assume(&mut self, pod: &Arc<Pod>, node: &Arc<str>) {
        self.place(Key::of(&pod.metadata), pod.clone(), node.clone());
    }

    pub(super) fn delete_pod(&mut self, key: &Key) {
        let Some(name) = self.places.remove(key) else { return };
        if let Some(info) = self.nodes.get_mut(&name) {
            let owner = info.remove(key);
            if info.choosy.is_empty() {
                self.choosy.remove(&name);
            }
            if let Some(owner) = owner.filter(|owner| !info.owners.contains_key(owner))
                && let Some(nodes) = self.owners.get_mut(&owner)
            {
                nodes.remove(&name);
                if nodes.is_empty() {
                    self.owners.remove(&owner);
                }
            }
            if info.is_forgotten() {
                self.nodes.remove(&name);
            }
        }
    }

    /// Nodes that are known, by name.
    pub(super) fn known(&self) -> impl Iterator<Item = (&Arc<str>, &NodeInfo, &Arc<Node>)> {
        self.nodes.iter().filter_map(|(name, info)| Some((name, info, info.node.as_ref()?)))
    }

    /// On which share of the nodes an image is.
    pub(super) fn share_of_nodes(&self, image: &str) -> f64 {
        let there = self.images.get(image).copied().unwrap_or(0);
        there as f64 / self.nodes.len().max(1) as f64
    }

    /// Known nodes with pods that have affinity or anti-affinity to pods.
    pub(super) fn choosy(&self) -> impl Iterator<Item = (&NodeInfo, &Arc<Node>)> {
        self.choosy.iter().filter_map(|name| self.known_node(name))
    }

    /// Known nodes with pods of a controller.
    pub(super) fn of_owner(&self, uid: &str) -> impl Iterator<Item = (&NodeInfo, &Arc<Node>)> {
        self.owners.get(uid).into_iter().flatten().filter_map(|name| self.known_node(name))
    }

    pub(super) fn known_node(&self, name: &str) -> Option<(&NodeInfo, &Arc<Node>)> {
        let info = self.nodes.get(name)?;
        Some((info, info.node.as_ref()?))
    }

    /// Keeps room on a node for a pod that others must leave it for.
    pub(super) fn nominate(&mut self, pod: &Arc<Pod>, node: &Arc<str>) {
        self.nominations.insert(Key::of(&pod.metadata), (pod.clone(), node.clone()));
    }

    /// No longer keeps room for the pod; whether any was kept.
    pub(super) fn withdraw(&mut self, key: &Key) -> bool {
        self.nominations.remove(key).is_some()
    }

    pub(super) fn nomination(&self, pod: &Pod) -> Option<&Arc<str>> {
        if self.nominations.is_empty() {
            return None;
        }
        self.nominations.get(&Key::of(&pod.metadata)).map(|(_, node)| node)
    }

    /// The node as if the pods that wait for room there had it; `None` if none does that counts for this pod.
    pub(super) fn with_nominated(
        &self,
        name: &str,
        info: &NodeInfo,
        wanted: &Wanted<'_>,
    ) -> Option<NodeInfo> {
        if self.nominations.is_empty() {
            return None;
        }
        let own = Key::of(&wanted.pod.metadata);
        let before = |pod: &Pod| priority(pod) >= priority(wanted.pod);
        let others = self.nominations.iter().filter(|(key, (pod, node))| {
            **node == *name && **key != own && !self.places.contains_key(*key) && before(pod)
        });
        let mut fuller = None;
        for (key, (pod, _)) in others {
            let fuller = fuller.get_or_insert_with(|| info.clone());
            fuller.insert(key.clone(), Placed::new(pod.clone()));
        }
        fuller
    }

    /// Frees the room of one pod, and not of a later one by its name.
    pub(super) fn release(&mut self, key: &Key, uid: &str) {
        let placed = self.places.get(key).and_then(|name| self.nodes.get(name)?.pods.get(key));
        if placed.is_some_and(|placed| meta::uid(&placed.pod.metadata) == uid) {
            self.delete_pod(key);
        }
    }
}

/// An image's name as kubelets report it: with a tag.
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

fn forget_images(counts: &mut HashMap<String, usize>, images: &HashMap<String, i64>) {
    for image in images.keys() {
        if let Some(count) = counts.get_mut(image) {
            *count -= 1;
            if *count == 0 {
                counts.remove(image);
            }
        }
    }
}

pub(super) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// Ports of the node that the pod's containers take.
pub(super) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            // On the node's own network a container port is a port of the node.
            let on_host = spec.host_network == Some(true);
            let number = port.host_port.filter(|n| *n > 0).or(on_host.then_some(port.container_port))?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let ip = port.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
            Some((protocol, ip, number))
        })
        .collect()
}

fn is_choosy(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    affinity.is_some_and(|affinity| affinity.pod_affinity.is_some() || affinity.pod_anti_affinity.is_some())
}

//! What the controllers know: one table a kind, fed by watches and by the answers to our own writes.
//! In: watch events and write results. Out: [`Change`]s, which the runner routes to the controllers' queues.
//!
//! Because the answer to a write lands here before its key is reconciled again, a controller always reads its own
//! writes: a watch that lags behind can make it neither create an object twice nor delete another one.
//! Revisions decide which of two versions is newer, and the uids of deleted objects are remembered, so that a late
//! answer cannot revive one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{Metadata, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{pool::LoadBalancerPool, slim};

/// Namespace (empty for cluster-wide kinds) and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// Key of an object without a namespace.
    pub fn cluster(name: &str) -> Self {
        Key::new("", name)
    }

    pub fn of(meta: &ObjectMeta) -> Self {
        Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a table can hold: any typed object, with one optional index of its own beside owner and namespace.
pub trait Stored: Metadata<Ty = ObjectMeta> + Clone + Send + Sync + 'static {
    /// Value under which `Table::indexed` finds the object.
    fn index(&self) -> Option<&str> {
        None
    }

    /// Drops what nobody reads.
    fn slim(&mut self) {}
}

#[derive(Clone, Debug)]
struct Entry<K> {
    object: Arc<K>,
    /// When this process first saw this version: node clocks play no part in it.
    changed: Timestamp,
    revision: u64,
    /// Known from a write's answer only; no watch event has shown it yet.
    unwatched: bool,
}

/// All objects of one kind, by key, by controlling owner and by the kind's own index.
#[derive(Clone)]
pub struct Table<K> {
    entries: BTreeMap<Key, Entry<K>>,
    owned: HashMap<Arc<str>, BTreeSet<Key>>,
    indexed: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Keys seen since a relist began.
    listing: Option<HashSet<Key>>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Table { entries: BTreeMap::new(), owned: HashMap::new(), indexed: HashMap::new(), listing: None }
    }
}

impl<K: Stored> Table<K> {
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.entries.get(key).map(|e| &e.object)
    }

    /// When this process first saw the object's present version.
    pub fn changed_at(&self, key: &Key) -> Option<Timestamp> {
        self.entries.get(key).map(|e| e.changed)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.entries.iter().map(|(k, e)| (k, &e.object))
    }

    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<K>)> + use<'a, K> {
        let from = Key::new(namespace, "");
        let namespace = from.namespace.clone();
        self.entries
            .range(from..)
            .take_while(move |(k, _)| k.namespace == namespace)
            .map(|(k, e)| (k, &e.object))
    }

    /// Objects whose controlling owner has this uid.
    pub fn owned_by<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.pick(self.owned.get(uid))
    }

    /// Objects whose `Stored::index` is `value`.
    pub fn indexed<'a>(&'a self, value: &str) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.pick(self.indexed.get(value))
    }

    fn pick<'a>(&'a self, keys: Option<&'a BTreeSet<Key>>) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        keys.into_iter().flatten().filter_map(|k| self.entries.get(k)).map(|e| &e.object)
    }

    /// Stores an object if it is newer than what is here. `None` if it was not; else what it replaced.
    fn put(&mut self, object: Arc<K>, now: Timestamp, watched: bool) -> Option<Option<Arc<K>>> {
        let key = Key::of(object.metadata());
        if let (true, Some(listing)) = (watched, &mut self.listing) {
            listing.insert(key.clone());
        }
        let revision = revision(object.metadata());
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.revision >= revision
            && revision != 0
        {
            entry.unwatched &= !watched;
            return None;
        }
        let entry = Entry { object: object.clone(), changed: now, revision, unwatched: !watched };
        let old = self.entries.insert(key.clone(), entry).map(|e| e.object);
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        if let Some(uid) = controller_uid(object.metadata()) {
            self.owned.entry(uid.into()).or_default().insert(key.clone());
        }
        if let Some(value) = object.index() {
            self.indexed.entry(value.into()).or_default().insert(key);
        }
        Some(old)
    }

    fn remove(&mut self, key: &Key, uid: Option<&str>) -> Option<Arc<K>> {
        let found = self.entries.get(key)?;
        if uid.is_some() && found.object.metadata().uid.as_deref() != uid {
            return None;
        }
        let object = self.entries.remove(key)?.object;
        self.unindex(key, &object);
        Some(object)
    }

    fn unindex(&mut self, key: &Key, object: &K) {
        let indexes =
            [(&mut self.owned, controller_uid(object.metadata())), (&mut self.indexed, object.index())];
        for (index, value) in indexes {
            let Some(value) = value else { continue };
            if let Some(keys) = index.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    index.remove(value);
                }
            }
        }
    }

    /// Marks the object as being deleted, before any watch says so.
    fn mark_deleted(&mut self, key: &Key, uid: Option<&str>, now: Timestamp) -> Option<Arc<K>> {
        let entry = self.entries.get_mut(key)?;
        let meta = entry.object.metadata();
        if meta.deletion_timestamp.is_some() || (uid.is_some() && meta.uid.as_deref() != uid) {
            return None;
        }
        let old = entry.object.clone();
        let meta = Arc::make_mut(&mut entry.object).metadata_mut();
        meta.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        Some(old)
    }

    fn begin_list(&mut self) {
        self.listing = Some(HashSet::new());
    }

    /// Ends a relist: keys that it did not show, apart in those known by watch (gone) and those only known from
    /// our own writes (their fate must be asked for: the list may be older than the write).
    fn end_list(&mut self) -> (Vec<Key>, Vec<Key>) {
        let seen = self.listing.take().unwrap_or_default();
        let unseen = self.entries.iter().filter(|(k, _)| !seen.contains(*k));
        let (asked, gone): (Vec<_>, Vec<_>) = unseen.partition(|(_, e)| e.unwatched);
        let keys = |list: Vec<(&Key, &Entry<K>)>| list.into_iter().map(|(k, _)| k.clone()).collect();
        (keys(gone), keys(asked))
    }
}

/// The resourceVersion as a number; 0 (never stale) if it is not one.
pub fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Uid of the owner that controls the object.
pub fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    crate::meta::controller_of(meta).map(|o| o.uid.as_str())
}

/// Uids of deleted objects, the latest few thousand.
#[derive(Clone, Default)]
struct Gone {
    order: VecDeque<Arc<str>>,
    uids: HashSet<Arc<str>>,
}

impl Gone {
    const KEPT: usize = 8192;

    fn insert(&mut self, uid: Option<&str>) {
        let Some(uid) = uid else { return };
        let uid: Arc<str> = uid.into();
        if self.uids.insert(uid.clone()) {
            self.order.push_back(uid);
        }
        while self.order.len() > Self::KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.uids.remove(&oldest);
            }
        }
    }

    fn contains(&self, meta: &ObjectMeta) -> bool {
        meta.uid.as_deref().is_some_and(|uid| self.uids.contains(uid))
    }
}

/// One object's step: created (`old` absent), changed, or deleted (`new` absent).
#[derive(Clone, Debug)]
pub struct Change {
    pub old: Option<Object>,
    pub new: Option<Object>,
}

impl Change {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> Option<&Object> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

macro_rules! kinds {
    ($($variant:ident $field:ident $type:ty;)*) => {
        /// Every kind that controllers read or write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($variant),* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            pub fn api_version(self) -> &'static str {
                match self { $(Kind::$variant => <$type as k8s_openapi::Resource>::API_VERSION),* }
            }

            pub fn group(self) -> &'static str {
                match self { $(Kind::$variant => <$type as k8s_openapi::Resource>::GROUP),* }
            }

            pub fn name(self) -> &'static str {
                match self { $(Kind::$variant => <$type as k8s_openapi::Resource>::KIND),* }
            }
        }

        /// An object of any of the kinds; cheap to clone.
        #[derive(Clone, Debug)]
        pub enum Object { $($variant(Arc<$type>)),* }

        impl Object {
            pub fn kind(&self) -> Kind {
                match self { $(Object::$variant(_) => Kind::$variant),* }
            }

            pub fn meta(&self) -> &ObjectMeta {
                match self { $(Object::$variant(o) => o.metadata()),* }
            }
        }

        $(impl From<$type> for Object {
            fn from(object: $type) -> Self { Object::$variant(Arc::new(object)) }
        })*

        /// All tables.
        #[derive(Clone, Default)]
        pub struct View { $(pub $field: Table<$type>,)* gone: Gone }

        impl View {
            /// Takes in a version that a watch showed.
            pub fn watched(&mut self, object: Object, now: Timestamp) -> Option<Change> {
                self.put(object, now, true)
            }

            /// Takes in the answer to one of our own writes.
            pub fn written(&mut self, object: Object, now: Timestamp) -> Option<Change> {
                self.put(object, now, false)
            }

            fn put(&mut self, object: Object, now: Timestamp, watched: bool) -> Option<Change> {
                if self.gone.contains(object.meta()) { return None }
                let old = match &object {
                    $(Object::$variant(o) => self.$field.put(o.clone(), now, watched)?.map(Object::$variant)),*
                };
                Some(Change { old, new: Some(object) })
            }

            /// A watch showed the object's end.
            pub fn deleted(&mut self, object: &Object) -> Option<Change> {
                let key = Key::of(object.meta());
                self.gone.insert(object.meta().uid.as_deref());
                let old = match object {
                    $(Object::$variant(o) => {
                        self.$field.remove(&key, o.metadata().uid.as_deref()).map(Object::$variant)?
                    })*
                };
                Some(Change { old: Some(old), new: None })
            }

            /// The server answered that no such object exists.
            pub fn missing(&mut self, kind: Kind, key: &Key) -> Option<Change> {
                let old = match kind {
                    $(Kind::$variant => self.$field.remove(key, None).map(Object::$variant)?),*
                };
                self.gone.insert(old.meta().uid.as_deref());
                Some(Change { old: Some(old), new: None })
            }

            /// The server accepted our delete; watches will tell the rest.
            pub fn delete_accepted(&mut self, kind: Kind, key: &Key, uid: Option<&str>, now: Timestamp) -> Option<Change> {
                match kind {
                    $(Kind::$variant => {
                        let old = Object::$variant(self.$field.mark_deleted(key, uid, now)?);
                        let new = self.$field.get(key).cloned().map(Object::$variant);
                        Some(Change { old: Some(old), new })
                    })*
                }
            }

            pub fn get(&self, kind: Kind, key: &Key) -> Option<Object> {
                match kind { $(Kind::$variant => self.$field.get(key).cloned().map(Object::$variant)),* }
            }

            /// Every object of a kind.
            pub fn all(&self, kind: Kind) -> Vec<Object> {
                match kind { $(Kind::$variant => self.$field.iter().map(|(_, o)| Object::$variant(o.clone())).collect()),* }
            }

            pub fn begin_list(&mut self, kind: Kind) {
                match kind { $(Kind::$variant => self.$field.begin_list()),* }
            }

            /// Ends a relist: what vanished meanwhile, and the keys whose fate must be asked for.
            pub fn end_list(&mut self, kind: Kind) -> (Vec<Change>, Vec<Key>) {
                let (gone, asked) = match kind { $(Kind::$variant => self.$field.end_list()),* };
                (gone.iter().filter_map(|key| self.missing(kind, key)).collect(), asked)
            }
        }
    };
}

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::Job,
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{
        ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service,
        ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
};

kinds! {
    Namespace namespaces Namespace;
    Node nodes Node;
    Lease leases Lease;
    Pod pods Pod;
    Service services Service;
    Endpoints endpoints Endpoints;
    EndpointSlice slices EndpointSlice;
    ConfigMap config_maps ConfigMap;
    ServiceAccount service_accounts ServiceAccount;
    ReplicationController replication_controllers ReplicationController;
    ReplicaSet replica_sets ReplicaSet;
    Deployment deployments Deployment;
    DaemonSet daemon_sets DaemonSet;
    StatefulSet stateful_sets StatefulSet;
    ControllerRevision revisions ControllerRevision;
    PersistentVolumeClaim claims PersistentVolumeClaim;
    Job jobs Job;
    CertificateSigningRequest csrs CertificateSigningRequest;
    PodDisruptionBudget budgets PodDisruptionBudget;
    ClusterRole cluster_roles ClusterRole;
    ServiceCIDR service_cidrs ServiceCIDR;
    LoadBalancerPool pools LoadBalancerPool;
}

/// Pods are found by the node they are bound to.
impl Stored for Pod {
    fn index(&self) -> Option<&str> {
        self.spec.as_ref()?.node_name.as_deref()
    }

    fn slim(&mut self) {
        slim::pod(self);
    }
}

/// EndpointSlices are found by `namespace`-local service name.
impl Stored for EndpointSlice {
    fn index(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.get("kubernetes.io/service-name").map(String::as_str)
    }
}

macro_rules! plain { ($($type:ty),*) => { $(impl Stored for $type {})* } }
plain!(
    Namespace,
    Node,
    Lease,
    Service,
    Endpoints,
    ConfigMap,
    ServiceAccount,
    ReplicationController,
    ReplicaSet,
    Deployment,
    DaemonSet,
    StatefulSet,
    ControllerRevision,
    PersistentVolumeClaim,
    Job,
    CertificateSigningRequest,
    PodDisruptionBudget,
    ClusterRole,
    ServiceCIDR,
    LoadBalancerPool
);

//! Classes of pods: all pods of a namespace with the same labels and the same affinity share one entry, with their nodes.
//! A selector is evaluated once for each class, not for each pod. PURE.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::meta::{self, Labels};

/// Pods with equal keys are equal to every selector and affinity term.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    namespace: String,
    labels: Labels,
    /// Affinity and anti-affinity to pods as JSON; empty if there is none.
    affinity: String,
}

impl ClassKey {
    pub(super) fn of(pod: &Pod) -> ClassKey {
        ClassKey {
            namespace: meta::namespace(&pod.metadata).to_owned(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            affinity: affinity(pod),
        }
    }

    /// Whether these pods have affinity or anti-affinity to pods.
    pub(super) fn has_pod_affinity(&self) -> bool {
        !self.affinity.is_empty()
    }
}

fn affinity(pod: &Pod) -> String {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let Some(affinity) = affinity.filter(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some())
    else {
        return String::new();
    };
    // Without JSON the pod would be a class of its own, which is slow and correct.
    serde_json::to_string(&(&affinity.pod_affinity, &affinity.pod_anti_affinity))
        .unwrap_or_else(|_| meta::uid(&pod.metadata).to_owned())
}

/// The number of pods of a class on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) all: usize,
    /// Those that are not terminating.
    pub(super) staying: usize,
}

/// All pods with one key.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// One of them; labels and affinity of all are the same.
    pub(super) sample: Arc<Pod>,
    pub(super) nodes: BTreeMap<Arc<str>, Count>,
}

type ClassTable = HashMap<Arc<ClassKey>, Class>;

#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    /// By namespace.
    plain: HashMap<String, ClassTable>,
    with_pod_affinity: HashMap<String, ClassTable>,
}

impl Classes {
    /// Returns the key that the pods of the class share, so that not each of them holds a copy of the labels.
    pub(super) fn insert(&mut self, key: Arc<ClassKey>, pod: &Arc<Pod>, node: &Arc<str>) -> Arc<ClassKey> {
        let tables = self.tables(&key);
        if !tables.contains_key(&key.namespace) {
            tables.insert(key.namespace.clone(), ClassTable::new());
        }
        let Some(table) = tables.get_mut(&key.namespace) else { return key };
        let key = table.get_key_value(&key).map_or(key, |(shared, _)| shared.clone());
        let class =
            table.entry(key.clone()).or_insert_with(|| Class { sample: pod.clone(), nodes: BTreeMap::new() });
        let count = class.nodes.entry(node.clone()).or_default();
        count.all += 1;
        count.staying += usize::from(!meta::terminating(&pod.metadata));
        key
    }

    pub(super) fn remove(&mut self, key: &Arc<ClassKey>, pod: &Pod, node: &str) {
        let tables = self.tables(key);
        let Some(table) = tables.get_mut(&key.namespace) else { return };
        if let Some(class) = table.get_mut(key)
            && let Some(count) = class.nodes.get_mut(node)
        {
            count.all -= 1;
            count.staying -= usize::from(!meta::terminating(&pod.metadata));
            if count.all == 0 {
                class.nodes.remove(node);
            }
            if class.nodes.is_empty() {
                table.remove(key);
            }
        }
        if table.is_empty() {
            tables.remove(&key.namespace);
        }
    }

    fn tables(&mut self, key: &ClassKey) -> &mut HashMap<String, ClassTable> {
        if key.has_pod_affinity() { &mut self.with_pod_affinity } else { &mut self.plain }
    }

    /// The classes of a namespace, or of all namespaces.
    pub(super) fn within<'a>(&'a self, namespace: Option<&str>) -> impl Iterator<Item = &'a Class> {
        let of = |tables: &'a HashMap<String, ClassTable>| {
            let one = namespace.map(|namespace| tables.get(namespace).into_iter());
            let all = namespace.is_none().then(|| tables.values());
            one.into_iter().flatten().chain(all.into_iter().flatten()).flat_map(ClassTable::values)
        };
        of(&self.plain).chain(of(&self.with_pod_affinity))
    }

    /// The classes whose pods have affinity or anti-affinity to pods.
    pub(super) fn with_pod_affinity(&self) -> impl Iterator<Item = &Class> {
        self.with_pod_affinity.values().flat_map(ClassTable::values)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    impl Classes {
        /// Every count, in a stable order.
        pub(in super::super) fn counts(&self) -> BTreeMap<String, BTreeMap<Arc<str>, Count>> {
            let tables = self.plain.values().chain(self.with_pod_affinity.values());
            tables.flatten().map(|(key, class)| (format!("{key:?}"), class.nodes.clone())).collect()
        }
    }

    fn pod(name: &str, more: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}}, "spec": {"containers": []}});
        for (key, value) in more.as_object().into_iter().flatten() {
            pod["metadata"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn equal_pods_are_one_class_and_leave_nothing_behind() {
        let mut classes = Classes::default();
        let pods = [
            pod("p1", json!({})),
            pod("p2", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
            pod("p3", json!({"labels": {"app": "db"}})),
            pod("p4", json!({"namespace": "b"})),
        ];
        let node: Arc<str> = "n1".into();
        let insert = |pod: &Arc<Pod>| classes.insert(Arc::new(ClassKey::of(pod)), pod, &node);
        let keys: Vec<_> = pods.iter().map(insert).collect();
        assert!(Arc::ptr_eq(&keys[0], &keys[1]), "pods of one class share its key");
        assert_eq!(classes.within(None).count(), 3);
        assert_eq!(classes.within(Some("a")).count(), 2);
        let web = classes.within(Some("a")).find(|class| class.nodes[&node].all == 2).unwrap();
        assert_eq!(web.nodes[&node], Count { all: 2, staying: 1 });
        keys.iter().zip(&pods).for_each(|(key, pod)| classes.remove(key, pod, &node));
        assert!(classes.plain.is_empty() && classes.with_pod_affinity.is_empty());
    }
}

//! The watchers of one kind, indexed by what they select, so that a change wakes only the watchers it may concern.
//!
//! In: a [`Trigger`] for each watch, and every change in order. Out: the change in the channels of the watchers whose
//! trigger has the value that the object has or had. A watcher still filters: the index only leaves out what it would drop.

use std::collections::HashMap;
use std::sync::Arc;

use skep_api::Kind;
use skep_api::selector::FieldSelector;

use super::Change;
use super::queue::{Changes, Sender, queue};
use crate::object::prefix;

/// Fewer watchers than this are not searched for closed ones.
const MIN_SWEEP: usize = 64;
/// The field by which kubelets select their pods; no built-in kind but Pod can be selected by it.
pub(super) const NODE_NAME: &str = "spec.nodeName";

/// The narrowest condition of a selection that can be looked up. Every change that the selection can show meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// One object, by its key.
    Object(String),
    /// Objects of a name in all namespaces.
    Name(String),
    /// Pods of a node; empty for pods without a node.
    NodeName(String),
    /// Objects of a namespace, by the prefix of their keys with its last slash.
    Namespace(String),
    Any,
}

impl Trigger {
    /// The trigger of a selection in a namespace, or in all if that is empty.
    pub(crate) fn of(kind: &Kind, namespace: &str, fields: &FieldSelector) -> Trigger {
        let within = match namespace {
            "" => prefix(kind),
            namespace => format!("{}{namespace}/", prefix(kind)),
        };
        let in_all = kind.namespaced() && namespace.is_empty();
        // A custom kind may name the field too, and read it differently in each version.
        let node = fields.required(NODE_NAME).filter(|_| kind.custom.is_none());
        match (fields.required("metadata.name"), node) {
            (Some(name), _) if in_all => Trigger::Name(name.to_owned()),
            (Some(name), _) => Trigger::Object(within + name),
            (None, Some(node)) => Trigger::NodeName(node.to_owned()),
            (None, None) if namespace.is_empty() => Trigger::Any,
            (None, None) => Trigger::Namespace(within),
        }
    }
}

/// Each watcher is in one list, so that it gets every change once and in order.
#[derive(Default)]
pub(super) struct Watchers {
    of_objects: Index,
    of_names: Index,
    of_nodes: Index,
    of_namespaces: Index,
    of_any: Vec<Sender>,
    /// Watchers that the last sweep kept, and those added since.
    registered: usize,
    /// The number of registered watchers that starts the next sweep.
    sweep_at: usize,
}

#[derive(Default)]
struct Index(HashMap<Box<str>, Vec<Sender>>);

impl Watchers {
    pub(super) fn subscribe(&mut self, trigger: Trigger) -> Changes {
        let (sender, changes) = queue();
        // The number doubles between sweeps, so that a subscription stays cheap among many watchers.
        if self.registered >= self.sweep_at.max(MIN_SWEEP) {
            self.sweep();
            self.sweep_at = 2 * self.registered;
        }
        self.registered += 1;
        match trigger {
            Trigger::Object(key) => self.of_objects.add(key, sender),
            Trigger::Name(name) => self.of_names.add(name, sender),
            Trigger::NodeName(node) => self.of_nodes.add(node, sender),
            Trigger::Namespace(prefix) => self.of_namespaces.add(prefix, sender),
            Trigger::Any => self.of_any.push(sender),
        }
        changes
    }

    /// Sends a change to those it may concern, and drops watchers that are closed or too slow.
    pub(super) fn publish(&mut self, change: &Arc<Change>) {
        self.retain(change, |sender| sender.send(change));
    }

    /// Closes the watchers that have not taken a change that is no longer kept for others: only they hold its memory.
    pub(super) fn close_behind(&mut self, change: &Change) {
        self.retain(change, |sender| sender.close_if_behind(change.revision()));
    }

    /// Keeps those of the watchers that a change may concern.
    fn retain(&mut self, change: &Change, keep: impl Fn(&Sender) -> bool) {
        let key = &*change.object.key;
        let name_at = key.rfind('/').map_or(0, |at| at + 1);
        self.of_objects.retain(key, &keep);
        self.of_names.retain(&key[name_at..], &keep);
        self.of_namespaces.retain(&key[..name_at], &keep);
        if !self.of_nodes.0.is_empty() {
            let now = change.object.selectable.field(NODE_NAME);
            self.of_nodes.retain(now, &keep);
            // Watchers of the old value get its deletion.
            let before = change.previous.as_ref().map(|previous| previous.selectable.field(NODE_NAME));
            if let Some(before) = before.filter(|before| *before != now) {
                self.of_nodes.retain(before, &keep);
            }
        }
        self.of_any.retain(keep);
    }

    /// The number of open watchers.
    pub(super) fn count(&self) -> usize {
        let open = |senders: &Vec<Sender>| senders.iter().filter(|sender| !sender.is_closed()).count();
        self.indexes().into_iter().flat_map(|index| index.0.values()).map(open).sum::<usize>()
            + open(&self.of_any)
    }

    fn indexes(&self) -> [&Index; 4] {
        [&self.of_objects, &self.of_names, &self.of_nodes, &self.of_namespaces]
    }

    /// Drops closed watchers, also those of values that never occur again.
    fn sweep(&mut self) {
        for index in [&mut self.of_objects, &mut self.of_names, &mut self.of_nodes, &mut self.of_namespaces] {
            index.0.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
        }
        self.of_any.retain(|sender| !sender.is_closed());
        self.registered =
            self.indexes().into_iter().flat_map(|index| index.0.values()).map(Vec::len).sum::<usize>()
                + self.of_any.len();
    }
}

impl Index {
    fn add(&mut self, value: String, sender: Sender) {
        self.0.entry(value.into()).or_default().push(sender);
    }

    fn retain(&mut self, value: &str, keep: impl Fn(&Sender) -> bool) {
        let Some(senders) = self.0.get_mut(value) else { return };
        senders.retain(keep);
        if senders.is_empty() {
            self.0.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use skep_store::{Entry, Revision};

    use super::*;
    use crate::cache::queue::{NoChange, QUEUE_LENGTH};
    use crate::cache::{ChangeKind, Resource};
    use crate::handlers::list::Selection;
    use crate::object::{Object, key};
    use crate::query::Query;

    fn pods() -> &'static Kind {
        skep_api::find("", "v1", "pods").unwrap()
    }

    fn pod(namespace: &str, name: &str, node: &str, revision: Revision) -> Arc<Object> {
        let value = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"nodeName": node}});
        let key = key(pods(), namespace, name).into();
        let entry = Entry { key, value: value.to_string().into(), created: 1, modified: revision };
        Arc::new(Object::from_entry(pods(), &entry))
    }

    fn selection(namespace: &str, fields: &str) -> Selection {
        let query = Query::parse(&format!("/?fieldSelector={fields}").parse().unwrap());
        Selection::of(pods(), namespace, &query).unwrap()
    }

    fn watch(resource: &Resource, namespace: &str, fields: &str) -> Changes {
        resource.list_and_watch("", selection(namespace, fields).trigger(pods(), namespace)).1
    }

    /// The events that a watch sends for the changes in its channel.
    fn events(selection: &Selection, changes: &mut Changes) -> Vec<(ChangeKind, String, Revision)> {
        let changes = std::iter::from_fn(|| changes.try_recv().ok());
        let event = |change: Arc<Change>| {
            Some((selection.event(&change)?, change.object.key.to_string(), change.revision()))
        };
        changes.filter_map(event).collect()
    }

    #[test]
    fn a_pod_wakes_the_watcher_of_its_node_alone() {
        let resource = Resource::default();
        let fields = |node| format!("spec.nodeName=n{node}");
        let mut watchers: Vec<Changes> = (0..100).map(|node| watch(&resource, "", &fields(node))).collect();
        let mut woken = || watchers.iter_mut().map(|changes| changes.try_recv().is_ok()).collect::<Vec<_>>();
        resource.put(pod("a", "x", "n7", 1));
        let only = |nodes: &[usize]| (0..100).map(|node| nodes.contains(&node)).collect::<Vec<_>>();
        assert_eq!(woken(), only(&[7]));
        resource.put(pod("a", "x", "n8", 2));
        assert_eq!(woken(), only(&[7, 8]), "the old value and the new one");
        resource.delete(&key(pods(), "a", "x"), 3);
        assert_eq!(woken(), only(&[8]));
    }

    #[test]
    fn names_and_namespaces_wake_their_watchers_alone() {
        let resource = Resource::default();
        let watched = [
            ("", "metadata.name=x"),
            ("a", "metadata.name=x"),
            ("b", "metadata.name=x"),
            ("a", "metadata.name=y"),
            ("a", ""),
            ("b", ""),
            ("", ""),
            ("", "status.phase!=Running"),
        ];
        let mut watchers = watched.map(|(namespace, fields)| watch(&resource, namespace, fields));
        resource.put(pod("a", "x", "", 1));
        let woken = watchers.each_mut().map(|changes| changes.try_recv().is_ok());
        assert_eq!(woken, [true, true, false, false, true, false, true, true]);
    }

    #[test]
    fn the_narrowest_condition_is_looked_up() {
        let key = |name: &str| format!("/registry/pods/{name}");
        let rows = [
            ("", "metadata.name=x,spec.nodeName=n", Trigger::Name("x".to_owned())),
            ("a", "spec.nodeName=n,metadata.name=x", Trigger::Object(key("a/x"))),
            ("a", "spec.nodeName=n", Trigger::NodeName("n".to_owned())),
            ("", "spec.nodeName=", Trigger::NodeName(String::new())),
            ("a", "spec.nodeName!=n", Trigger::Namespace(key("a/"))),
            ("", "spec.nodeName!=n", Trigger::Any),
        ];
        let found = rows.each_ref().map(|(namespace, fields, _)| {
            (*namespace, *fields, selection(namespace, fields).trigger(pods(), namespace))
        });
        assert_eq!(found, rows);
        let nodes = skep_api::find("", "v1", "nodes").unwrap();
        let fields = FieldSelector::parse(nodes, "metadata.name=n").unwrap();
        assert_eq!(Trigger::of(nodes, "", &fields), Trigger::Object("/registry/nodes/n".to_owned()));
    }

    #[test]
    fn closed_watchers_of_values_that_never_come_again_are_dropped() {
        let mut watchers = Watchers::default();
        let kept = watchers.subscribe(Trigger::Any);
        for at in 0..10_000 {
            drop(watchers.subscribe(Trigger::Name(at.to_string())));
        }
        assert!(watchers.of_names.0.len() <= 2 * MIN_SWEEP);
        assert_eq!(watchers.count(), 1);
        drop(kept);
        assert_eq!(watchers.count(), 0);
    }

    #[test]
    fn a_watcher_that_does_not_read_is_dropped_after_its_queue_is_full() {
        let resource = Resource::default();
        let mut slow = watch(&resource, "", "spec.nodeName=n");
        for revision in 1..=QUEUE_LENGTH as Revision + 1 {
            resource.put(pod("a", "x", "n", revision));
        }
        assert_eq!(resource.counts().watchers, 0);
        assert_eq!(slow.try_recv().unwrap_err(), NoChange::Closed, "nothing is kept for it");
    }

    /// Few names, namespaces and nodes, so that watchers often match. A write without a node deletes the pod.
    #[derive(Clone, Debug)]
    enum Step {
        Write { namespace: usize, name: usize, node: Option<usize> },
        Watch { namespace: usize, fields: Vec<usize> },
    }

    const NAMESPACES: [&str; 3] = ["", "a", "ab"];
    const NAMES: [&str; 3] = ["x", "y", "xy"];
    const NODES: [&str; 3] = ["", "n", "m"];
    const FIELDS: [&str; 8] = [
        "metadata.name=x",
        "metadata.name!=y",
        "metadata.namespace=a",
        "spec.nodeName=",
        "spec.nodeName=n",
        "spec.nodeName!=n",
        "spec.nodeName=m",
        "status.phase!=Running",
    ];

    fn step() -> impl Strategy<Value = Step> {
        let write = (1..3usize, 0..3usize, prop::option::weighted(0.8, 0..3usize));
        let watch = (0..3usize, prop::collection::vec(0..FIELDS.len(), 0..3));
        prop_oneof![
            4 => write.prop_map(|(namespace, name, node)| Step::Write { namespace, name, node }),
            1 => watch.prop_map(|(namespace, fields)| Step::Watch { namespace, fields }),
        ]
    }

    proptest! {
        #[test]
        fn a_watcher_sees_what_it_would_see_of_all_changes(steps in prop::collection::vec(step(), 0..80)) {
            let resource = Resource::default();
            let mut watchers = Vec::new();
            for (revision, step) in (1..).zip(steps) {
                match step {
                    Step::Write { namespace, name, node } => {
                        let (namespace, name) = (NAMESPACES[namespace], NAMES[name]);
                        match node {
                            Some(node) => resource.put(pod(namespace, name, NODES[node], revision)),
                            None => resource.delete(&key(pods(), namespace, name), revision),
                        }
                    }
                    Step::Watch { namespace, fields } => {
                        let namespace = NAMESPACES[namespace];
                        let fields: Vec<&str> = fields.into_iter().map(|at| FIELDS[at]).collect();
                        let selection = selection(namespace, &fields.join(","));
                        let trigger = selection.trigger(pods(), namespace);
                        let indexed = resource.list_and_watch("", trigger).1;
                        watchers.push((selection, indexed, resource.subscribe()));
                    }
                }
            }
            for (selection, mut indexed, mut all) in watchers {
                prop_assert_eq!(events(&selection, &mut indexed), events(&selection, &mut all));
            }
        }
    }
}

//! A view that informers fill: which kinds have been listed, and which objects the server must still be asked for.

use std::collections::HashSet;

use jiff::Timestamp;

use super::key::Key;
use super::kinds::{Kind, Object};
use super::view::{Change, View};

/// One step of a kind's watch, named as in kube's `watcher::Event`.
#[derive(Clone, Debug)]
pub(crate) enum WatchEvent {
    /// A list begins.
    Init,
    InitApply(Object),
    /// The list is complete; objects that it did not show are gone.
    InitDone,
    Apply(Object),
    Delete(Object),
    /// A version of the object with this uid does not decode; the list or watch has shown its key.
    Unreadable(Key, Option<String>),
    /// An object was deleted whose last version does not decode.
    DeleteUnreadable(Key, Option<String>),
}

/// What the server answered to a request of ours.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Written(Object),
    DeleteAccepted { kind: Kind, key: Key, uid: Option<String> },
    Missing { kind: Kind, key: Key },
}

/// The view and the progress of its informers.
///
/// Events of one kind come in the order of its watch; kinds may interleave in any way. `absorb` may come at any time, also
/// before the kind's first list is complete: revisions decide which version stays. Every call returns the changes that it
/// made to the view, in order.
pub(crate) struct InformerCache {
    view: View,
    /// Kinds whose first list is not complete.
    unsynced: HashSet<Kind>,
    /// Written by us, and not shown by a list that may be older than the write.
    unconfirmed: Vec<(Kind, Key)>,
}

impl InformerCache {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        InformerCache {
            view: View::default(),
            unsynced: kinds.iter().copied().collect(),
            unconfirmed: Vec::new(),
        }
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Whether the first list of the kind is complete.
    pub(crate) fn listed(&self, kind: Kind) -> bool {
        !self.unsynced.contains(&kind)
    }

    /// The server does not serve this kind: it counts as listed and empty.
    pub(crate) fn not_served(&mut self, kind: Kind) {
        self.unsynced.remove(&kind);
    }

    pub(crate) fn apply(&mut self, kind: Kind, event: WatchEvent, now: Timestamp) -> Vec<Change> {
        let changes = self.apply_event(kind, event, now);
        self.view.note_missing_nodes(&changes, now);
        changes
    }

    fn apply_event(&mut self, kind: Kind, event: WatchEvent, now: Timestamp) -> Vec<Change> {
        match event {
            WatchEvent::Init => {
                self.view.begin_list(kind);
                Vec::new()
            }
            WatchEvent::Apply(object) | WatchEvent::InitApply(object) => {
                self.view.watched(object, now).into_iter().collect()
            }
            WatchEvent::Delete(object) => self.view.deleted(&object).into_iter().collect(),
            WatchEvent::Unreadable(key, uid) => {
                self.view.unreadable(kind, &key, uid.as_deref()).into_iter().collect()
            }
            WatchEvent::DeleteUnreadable(key, uid) => {
                self.view.deleted_unreadable(kind, &key, uid.as_deref()).into_iter().collect()
            }
            WatchEvent::InitDone => {
                self.unsynced.remove(&kind);
                if kind == Kind::Node {
                    self.view.note_listed_nodes(now);
                }
                let (changes, unconfirmed) = self.view.end_list(kind);
                self.unconfirmed.extend(unconfirmed.into_iter().map(|key| (kind, key)));
                changes
            }
        }
    }

    pub(crate) fn absorb(&mut self, answers: Vec<Answer>, now: Timestamp) -> Vec<Change> {
        let changes = answers.into_iter().filter_map(|answer| match answer {
            Answer::Written(object) => self.view.written(object, now),
            Answer::DeleteAccepted { kind, key, uid } => {
                self.view.delete_accepted(kind, &key, uid.as_deref(), now)
            }
            Answer::Missing { kind, key } => self.view.missing(kind, &key),
        });
        let changes: Vec<Change> = changes.collect();
        self.view.note_missing_nodes(&changes, now);
        changes
    }

    /// Takes the objects that the server must be asked for; the answers come back through `absorb`.
    pub(crate) fn take_unconfirmed(&mut self) -> Vec<(Kind, Key)> {
        std::mem::take(&mut self.unconfirmed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, uid: &str) -> Object {
        let value =
            json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": "1"}});
        serde_json::from_value::<k8s_openapi::api::core::v1::Service>(value).unwrap().into()
    }

    #[test]
    fn the_last_version_that_decodes_stays_until_its_object_is_gone() {
        let mut cache = InformerCache::new(&[Kind::Service]);
        let mut apply = |event| cache.apply(Kind::Service, event, Timestamp::UNIX_EPOCH).len();
        let key = |name: &str| Key::new("ns", name);
        let bad = |name: &str, uid: &str| WatchEvent::Unreadable(key(name), Some(uid.to_owned()));
        for name in ["a", "b", "c"] {
            assert_eq!(apply(WatchEvent::Apply(service(name, name))), 1);
        }
        assert_eq!(apply(bad("a", "a")), 0);
        assert_eq!(
            apply(WatchEvent::Init) + apply(bad("a", "a")) + apply(bad("b", "other")),
            1,
            "b is another object"
        );
        assert_eq!(apply(WatchEvent::InitDone), 1, "c is gone");
        assert_eq!(apply(WatchEvent::DeleteUnreadable(key("a"), Some("other".to_owned()))), 0);
        assert_eq!(apply(bad("d", "d")), 0);
        let services = &cache.view().services;
        assert_eq!(services.iter().map(|(key, _)| &*key.name).collect::<Vec<_>>(), ["a"]);
        assert!(services.is_unreadable(&key("b")) && services.is_unreadable(&key("d")));
        let mut apply = |event| cache.apply(Kind::Service, event, Timestamp::UNIX_EPOCH).len();
        assert_eq!(apply(WatchEvent::DeleteUnreadable(key("a"), Some("a".to_owned()))), 1);
        assert_eq!(apply(WatchEvent::Apply(service("d", "d"))), 1);
        assert!(!cache.view().services.is_unreadable(&key("d")));
    }
}

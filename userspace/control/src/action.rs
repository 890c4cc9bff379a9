//! What a reconcile decides: writes, and when to reconcile again. Plain values; `runner::perform` performs them.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cache::{Change, Key, Kind, Object, View};

#[derive(Clone, Debug)]
pub enum Action {
    Create(Object),
    /// Replaces the object, guarded by its resourceVersion; `subresource` is "", "status", "approval" ...
    Update {
        object: Object,
        subresource: &'static str,
    },
    /// A JSON merge patch.
    Patch {
        kind: Kind,
        key: Key,
        patch: Value,
        subresource: &'static str,
    },
    Delete(Delete),
    /// Ends the task with a conflict if the server has such an object; the view may not have it yet.
    EnsureMissing {
        kind: Kind,
        key: Key,
    },
    /// Reads an object; the runner does so after writes whose answer was lost.
    Confirm {
        kind: Kind,
        key: Key,
    },
    /// Writes an Event.
    Record(Record),
    /// Reconcile this key again at that time.
    RequeueAt(Timestamp),
}

#[derive(Clone, Debug)]
pub struct Delete {
    pub kind: Kind,
    pub key: Key,
    /// Delete only the object with this uid.
    pub uid: Option<String>,
    pub grace_seconds: Option<u32>,
    pub propagation: Option<Propagation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// An Event about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    pub key: Key,
    pub uid: String,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Action {
    pub fn update(object: impl Into<Object>) -> Self {
        Action::Update { object: object.into(), subresource: "" }
    }

    pub fn update_status(object: impl Into<Object>) -> Self {
        Action::Update { object: object.into(), subresource: "status" }
    }

    /// Sets the status to `new` by a merge patch. It changes only the status, so it needs no version.
    pub fn patch_status<S: Serialize>(kind: Kind, key: Key, old: Option<&S>, new: &S) -> Self {
        let json = |s: &S| serde_json::to_value(s).unwrap_or_default();
        let mut status = json(new);
        if let Some(old) = old.map(json) {
            remove_missing(&old, &mut status);
        }
        Action::Patch { kind, key, patch: json!({"status": status}), subresource: "status" }
    }

    /// The object that may or may not have changed if this action's answer was lost.
    pub(crate) fn unsure(&self) -> Option<(Kind, Key)> {
        match self {
            Action::Create(object) | Action::Update { object, .. } => {
                Some((object.kind(), Key::of(object.meta())))
            }
            Action::Delete(Delete { kind, key, .. })
            | Action::Patch { kind, key, .. }
            | Action::Confirm { kind, key } => Some((*kind, key.clone())),
            Action::EnsureMissing { .. } | Action::Record(_) | Action::RequeueAt(_) => None,
        }
    }

    /// Deletes exactly this object, with the default propagation and grace of its kind.
    pub fn delete(object: impl Into<Object>) -> Self {
        let object = object.into();
        Action::Delete(Delete {
            kind: object.kind(),
            key: Key::of(object.meta()),
            uid: object.meta().uid.clone(),
            grace_seconds: None,
            propagation: None,
        })
    }

    pub fn record(object: &Object, warning: bool, reason: &'static str, message: String) -> Self {
        Action::Record(Record {
            kind: object.kind(),
            key: Key::of(object.meta()),
            uid: object.meta().uid.clone().unwrap_or_default(),
            warning,
            reason,
            message,
        })
    }
}

/// Adds a null to a merge patch for every field that only the old value has.
fn remove_missing(old: &Value, new: &mut Value) {
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        for (name, value) in old {
            remove_missing(value, new.entry(name.clone()).or_insert(Value::Null));
        }
    }
}

/// Why a task ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The view was stale; a watch event will update it.
    Conflict,
    /// The server refused.
    Refused { code: u16, reason: String, message: String },
    /// No answer: the write may or may not have happened.
    Unknown(String),
    /// A fault of ours while the object was reconciled.
    Panicked(String),
}

impl Failure {
    /// Text for a user's condition.
    pub fn message(&self) -> &str {
        match self {
            Failure::Conflict => "the object has been modified",
            Failure::Refused { message, .. } | Failure::Unknown(message) | Failure::Panicked(message) => {
                message
            }
        }
    }
}

/// The input of a reconcile besides the view.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// On the wall clock, like the times of objects.
    pub now: Timestamp,
    /// On the steady clock, like the times at which this process received objects. Steps of the wall clock do not move it.
    pub steady: Timestamp,
    /// Names of new objects derive from it. It stays the same until the results of the last actions are known.
    pub seed: u64,
    /// Why the last task of this key failed, if it did.
    pub failure: Option<&'a Failure>,
}

/// One controller: pure functions from the view to actions.
///
/// `route` gets every change after the view holds it; the view may already hold later ones. `reconcile` gets a key at any
/// time, also one whose object does not exist, and returns no actions if nothing is left to do.
pub trait Controller: Send + 'static {
    fn name(&self) -> &'static str;

    /// The name of its ServiceAccount, as upstream's.
    fn account(&self) -> &'static str;

    /// The component that its Events name, as upstream's.
    fn event_source(&self) -> &'static str {
        self.account()
    }

    /// The kinds that `reconcile` reads, those of its keys first. It is called once all of them are listed.
    fn reads(&self) -> &'static [Kind];

    /// Adds the keys that must be reconciled because of `change`.
    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>);

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action>;
}

//! What a reconcile decides: the writes to make and when to look again. Plain values; `runner::perform` makes them true.

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
    /// A merge patch.
    Patch {
        kind: Kind,
        key: Key,
        patch: Value,
        subresource: &'static str,
    },
    Delete(Delete),
    /// Goes on only if the server knows no such object; the view may not know it yet.
    EnsureMissing {
        kind: Kind,
        key: Key,
    },
    /// Learns what an object is like; the runner asks so after writes whose answer was lost.
    Confirm {
        kind: Kind,
        key: Key,
    },
    /// Tells users what happened to an object, and why.
    Record(Record),
    /// Reconcile this key again at that time.
    RequeueAt(Timestamp),
}

#[derive(Clone, Debug)]
pub struct Delete {
    pub kind: Kind,
    pub key: Key,
    /// Only the object with this uid.
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

    /// Sets the status to `new` by a merge patch: nothing beside the status is touched, so no version need guard it.
    pub fn patch_status<S: Serialize>(kind: Kind, key: Key, old: Option<&S>, new: &S) -> Self {
        let json = |s: &S| serde_json::to_value(s).unwrap_or_default();
        let mut status = json(new);
        if let Some(old) = old.map(json) {
            remove_missing(&old, &mut status);
        }
        Action::Patch { kind, key, patch: json!({"status": status}), subresource: "status" }
    }

    /// What may or may not have changed if this action's answer was lost.
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

    /// Deletes exactly this object, as its kind does by default.
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

/// Adds to a merge patch a null for every field that the old value has and the new one has not.
fn remove_missing(old: &Value, new: &mut Value) {
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        for (name, value) in old {
            remove_missing(value, new.entry(name.clone()).or_insert(Value::Null));
        }
    }
}

/// Why performing stopped early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The view was stale; a newer one is on its way.
    Conflict,
    /// The server refused.
    Refused { code: u16, reason: String, message: String },
    /// No answer: the write may or may not have happened.
    Unknown(String),
}

impl Failure {
    /// Text for a user's condition.
    pub fn message(&self) -> &str {
        match self {
            Failure::Conflict => "the object has been modified",
            Failure::Refused { message, .. } | Failure::Unknown(message) => message,
        }
    }
}

/// What a reconcile gets beside the view.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub now: Timestamp,
    /// Names of new objects derive from it. It changes only when the fate of the last actions is known.
    pub seed: u64,
    /// How the last performance for this key ended, if not well.
    pub failure: Option<&'a Failure>,
}

/// One controller: pure functions from what is known to what shall be done.
pub trait Controller: Send + 'static {
    fn name(&self) -> &'static str;

    /// Adds the keys that must be reconciled because of `change`.
    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>);

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action>;
}

//! Kinds that are another spelling of a stored kind: what a client sends is stored in the other form, and shown in its own. PURE.

mod autoscaler;
mod event;

use serde_json::Value;

use crate::kinds::{Kind, KindRef, find};

/// How a kind is spelled in the stored form, and back.
struct Spelling {
    group: &'static str,
    version: &'static str,
    /// Group and version of the stored kind, which has the same plural.
    stored: (&'static str, &'static str),
    to_stored: fn(Value) -> Value,
    from_stored: fn(Value) -> Value,
}

const SPELLINGS: [Spelling; 2] = [
    Spelling {
        group: "events.k8s.io",
        version: "v1",
        stored: ("", "v1"),
        to_stored: event::to_stored,
        from_stored: event::from_stored,
    },
    Spelling {
        group: "autoscaling",
        version: "v1",
        stored: ("autoscaling", "v2"),
        to_stored: autoscaler::to_stored,
        from_stored: autoscaler::from_stored,
    },
];

fn of(kind: &Kind) -> Option<&'static Spelling> {
    SPELLINGS.iter().find(|spelling| spelling.group == kind.group && spelling.version == kind.version)
}

/// Whether objects of the kind are stored in another form.
pub fn differs(kind: &Kind) -> bool {
    of(kind).is_some()
}

/// The kind in whose form objects are stored.
pub fn stored(kind: &Kind) -> Option<&'static Kind> {
    find(of(kind)?.stored.0, of(kind)?.stored.1, kind.plural)
}

/// An object of the kind in the stored form; the kind becomes that of the form.
pub fn take_in(kind: &mut KindRef, object: Value) -> Value {
    let object = to_stored(kind, object);
    if let Some(stored) = stored(kind) {
        *kind = stored.into();
    }
    object
}

pub fn to_stored(kind: &Kind, object: Value) -> Value {
    match of(kind) {
        Some(spelling) => (spelling.to_stored)(object),
        None => object,
    }
}

pub fn from_stored(kind: &Kind, object: Value) -> Value {
    match of(kind) {
        Some(spelling) => (spelling.from_stored)(object),
        None => object,
    }
}

//! The field manager of a request, and its entry in `metadata.managedFields`.

use http::header::USER_AGENT;
use serde_json::Value;
use skep_api::apply::{self, Writer};
use skep_api::field::Path;
use skep_api::{Errors, Kind};

use crate::call::Call;
use crate::clock::now;
use crate::query::Query;

/// Bytes of a manager's name (validation.FieldManagerMaxLength).
const MAX_NAME_BYTES: usize = 128;

/// Reports an invalid `fieldManager`.
pub(crate) fn check_name(query: &Query, errors: &mut Errors) {
    let path = Path::new("fieldManager");
    let name = query.get("fieldManager").unwrap_or_default();
    if name.len() > MAX_NAME_BYTES {
        errors.too_long(&path, MAX_NAME_BYTES);
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.invalid(&path, &name.into(), &why);
    }
}

/// The manager in the query, or the program in the User-Agent header.
pub(crate) fn name(call: &Call) -> String {
    if let Some(name) = call.query.get("fieldManager") {
        return name.to_owned();
    }
    let agent = call.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    agent.split('/').next().unwrap_or_default().chars().take(MAX_NAME_BYTES).collect()
}

/// Calls `with` with the writer of the request.
pub(crate) fn as_writer<T>(call: &Call, with: impl FnOnce(&Writer<'_>) -> T) -> T {
    let (manager, now) = (name(call), now());
    with(&Writer { manager: &manager, subresource: &call.target.subresource, now: &now })
}

/// The manager of what the server writes of its own accord, as upstream.
pub(crate) const SERVER: &str = "kube-apiserver";

/// Records the fields that the server changed in `old` (null for a new object).
pub(crate) fn track_own(kind: &Kind, manager: &str, old: &Value, new: &mut Value) {
    apply::track(kind, old, new, &Writer { manager, subresource: "", now: &now() });
}

/// Records the fields that the request changed in `old` (null for a new object).
pub(crate) fn track(call: &Call, old: &Value, new: &mut Value) {
    as_writer(call, |writer| apply::track(&call.target.kind, old, new, writer));
}

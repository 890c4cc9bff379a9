//! The field manager of a request, and its entry in `metadata.managedFields`.

use http::header::USER_AGENT;
use serde_json::Value;
use skep_api::Status;
use skep_api::apply::{self, Writer};
use skep_api::kinds::Part;

use crate::call::Call;
use crate::clock::now;
use crate::query::Query;

/// Bytes of a manager's name (validation.FieldManagerMaxLength).
const MAX_NAME_BYTES: usize = 128;

/// Refuses an invalid `fieldManager`.
pub(crate) fn check_name(query: &Query) -> Result<(), Status> {
    let name = query.get("fieldManager").unwrap_or_default();
    if name.len() > MAX_NAME_BYTES {
        return Err(invalid(&format!("fieldManager: Too long: may not be more than {MAX_NAME_BYTES} bytes")));
    }
    match name.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, c)) => Err(invalid(&format!(
            "fieldManager: Invalid value: {name:?}: invalid character {c:?} (at position {at})"
        ))),
        None => Ok(()),
    }
}

pub(crate) fn invalid(what: &str) -> Status {
    Status::invalid_body("PatchOptions.meta.k8s.io", "", what)
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
pub(crate) fn as_writer<T>(call: &Call, part: Part, with: impl FnOnce(&Writer<'_>) -> T) -> T {
    let (manager, now) = (name(call), now());
    with(&Writer { manager: &manager, subresource: &call.target.subresource, part, now: &now })
}

/// Records the fields that the request changed in `old` (null for a new object).
pub(crate) fn track(call: &Call, old: &Value, new: &mut Value, part: Part) {
    as_writer(call, part, |writer| apply::track(&call.target.kind, old, new, writer));
}

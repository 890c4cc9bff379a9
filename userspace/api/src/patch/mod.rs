//! Patches: JSON (RFC 6902), merge (RFC 7396) and strategic merge.

mod strategic;

use serde_json::Value;

use crate::kinds::Kind;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is no patch: 400.
    #[error("{0}")]
    Malformed(String),
    /// It does not apply to this object: 422.
    #[error("{0}")]
    DoesNotApply(String),
}

/// Operations of one JSON patch at most, as upstream.
const OPERATIONS_MAX: usize = 10_000;

/// A JSON patch, whole or not at all.
pub fn json(object: &mut Value, patch: Value) -> Result<(), PatchError> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if patch.0.len() > OPERATIONS_MAX {
        let found = patch.0.len();
        return Err(PatchError::Malformed(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {found}"
        )));
    }
    let mut new = object.clone();
    for operation in patch.0 {
        // Upstream takes what is absent for null, and clients test so that a list is not there yet.
        if let json_patch::PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && new.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        json_patch::patch(&mut new, &[operation]).map_err(|error| {
            PatchError::DoesNotApply(format!(
                "the server rejected our request due to an error in our request: {error}"
            ))
        })?;
    }
    *object = new;
    Ok(())
}

pub fn merge(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be an object".into()));
    }
    json_patch::merge(object, patch);
    Ok(())
}

/// A strategic merge patch by the kind's schema facts.
pub fn strategic(kind: &Kind, object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    strategic::apply(kind.schema, object, patch)
}

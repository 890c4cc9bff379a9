//! Patches: JSON (RFC 6902), merge (RFC 7396) and strategic merge. In: an object and a patch. Out: the object, changed in
//! place, or a [`PatchError`].

mod strategic;

use serde_json::Value;

use crate::kinds::Kind;

/// Why a patch failed, with the API's message and the HTTP status that it becomes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch has too many operations: 413.
    #[error("{0}")]
    TooLarge(String),
    /// A `test` operation failed: 422.
    #[error("{0}")]
    TestFailed(String),
    /// The patch does not apply to this object: 422.
    #[error("{0}")]
    DoesNotApply(String),
}

/// Number of operations of one JSON patch (upstream's MaxJSONPatchOperations).
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that all `copy` operations of a JSON patch may add: each could double the object (JSONPatchMaxCopyBytes).
const MAX_COPY_BYTES: usize = 3 << 20;

/// Applies a JSON patch; the object stays unchanged on error.
pub fn json(object: &mut Value, patch: Value) -> Result<(), PatchError> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        let found = patch.0.len();
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {found}"
        )));
    }
    let mut new = object.clone();
    let mut copied = 0;
    for operation in patch.0 {
        // Upstream treats an absent value as null; clients use this to test that a list does not exist yet.
        if let json_patch::PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && new.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        if let json_patch::PatchOperation::Copy(copy) = &operation {
            copied += new.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > MAX_COPY_BYTES {
                return Err(PatchError::DoesNotApply(rejected(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPY_BYTES}"
                ))));
            }
        }
        json_patch::patch(&mut new, &[operation]).map_err(|error| match error.kind {
            json_patch::PatchErrorKind::TestFailed => PatchError::TestFailed(rejected(error)),
            _ => PatchError::DoesNotApply(rejected(error)),
        })?;
    }
    *object = new;
    Ok(())
}

fn rejected(why: impl std::fmt::Display) -> String {
    format!("the server rejected our request due to an error in our request: {why}")
}

/// Applies a JSON merge patch.
pub fn merge(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be an object".into()));
    }
    json_patch::merge(object, patch);
    Ok(())
}

/// Applies a strategic merge patch along the kind's schema.
pub fn strategic(kind: &Kind, object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    strategic::apply(kind.schema, object, patch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn copies_and_operations_are_bounded() {
        let double =
            |times: usize| Value::from(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); times]);
        let mut object = json!({"a": ["x".repeat(100)]});
        assert_eq!(json(&mut object, double(10)), Ok(()));
        let before = object.clone();
        let Err(PatchError::DoesNotApply(why)) = json(&mut object, double(40)) else { panic!("{object}") };
        assert!(
            why.contains("the accumulated size increase of copy is")
                && why.contains("exceeding the limit 3145728"),
            "{why}"
        );
        let many =
            |count: usize| Value::from(vec![json!({"op": "test", "path": "/b", "value": null}); count]);
        assert_eq!(json(&mut object, many(10_000)), Ok(()));
        let wanted = "The allowed maximum operations in a JSON patch is 10000, got 10001";
        assert_eq!(json(&mut object, many(10_001)), Err(PatchError::TooLarge(wanted.to_owned())));
        assert_eq!(object, before);
    }

    #[test]
    fn a_failed_test_is_another_error_than_a_failed_operation() {
        let found = |patch: Value| json(&mut json!({"a": 1}), Value::Array(vec![patch])).unwrap_err();
        assert!(matches!(found(json!({"op": "test", "path": "/a", "value": 2})), PatchError::TestFailed(_)));
        assert!(matches!(found(json!({"op": "remove", "path": "/b"})), PatchError::DoesNotApply(_)));
        assert!(matches!(found(json!({"op": "nonsense"})), PatchError::Malformed(_)));
    }
}

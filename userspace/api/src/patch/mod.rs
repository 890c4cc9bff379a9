//! Patches: JSON (RFC 6902), merge (RFC 7396) and strategic merge. In: an object and a patch. Out: the object, changed in
//! place, or a [`PatchError`].

mod json;
mod strategic;

use serde_json::Value;

use crate::document::is_too_deep;
use crate::kinds::Kind;

/// Why a patch failed, with the API's message and the HTTP status that it becomes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch has too many operations, or they are too much work: 413.
    #[error("{0}")]
    TooLarge(String),
    /// A `test` operation failed: 422.
    #[error("{0}")]
    TestFailed(String),
    /// The patch does not apply to this object: 422.
    #[error("{0}")]
    DoesNotApply(String),
}

/// As Go's JSON decoder says it.
const TOO_DEEP: &str = "exceeded max depth";

/// Applies a JSON patch; the object stays unchanged on error.
pub fn json(object: &mut Value, patch: Value) -> Result<(), PatchError> {
    json::apply(object, patch)
}

fn rejected(why: impl std::fmt::Display) -> String {
    format!("the server rejected our request due to an error in our request: {why}")
}

/// Applies a JSON merge patch.
pub fn merge(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be an object".into()));
    }
    check_depth(patch)?;
    json_patch::merge(object, patch);
    Ok(())
}

/// A merged object is as deep as the object or the patch.
fn check_depth(patch: &Value) -> Result<(), PatchError> {
    if is_too_deep(patch) { Err(PatchError::DoesNotApply(rejected(TOO_DEEP))) } else { Ok(()) }
}

/// Applies a strategic merge patch along the kind's schema.
pub fn strategic(kind: &Kind, object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    check_depth(patch)?;
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

    /// A chain of objects whose copy onto its own end doubles its depth with each operation.
    fn doubling_chain(levels: usize) -> Value {
        let (start, mut depth) = (120, 120);
        let chain = (1..start).fold(json!({}), |inner, _| json!({"a": inner}));
        let mut operations = vec![json!({"op": "add", "path": "/zz", "value": chain})];
        while depth < levels {
            operations
                .push(json!({"op": "copy", "from": "/zz", "path": format!("/zz{}", "/a".repeat(depth))}));
            depth *= 2;
        }
        operations.into()
    }

    #[test]
    fn no_operation_nests_deeper_than_the_limit() {
        let too_deep = |patch: Value| {
            let refused = json(&mut json!({"zz": null}), patch).unwrap_err();
            assert!(matches!(&refused, PatchError::DoesNotApply(why) if why.contains(TOO_DEEP)), "{refused}");
        };
        too_deep(doubling_chain(30_000));
        let chain = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
        let grow = |op: &str| {
            let (from, path) = ("/x", format!("/zz{}", "/a".repeat(60)));
            json!([
                {"op": "add", "path": "/zz", "value": chain(60)},
                {"op": "add", "path": "/x", "value": chain(60)},
                {"op": op, "from": from, "path": path, "value": chain(60)},
            ])
        };
        ["copy", "move", "replace"].into_iter().for_each(|op| too_deep(grow(op)));
        let too_deep = merge(&mut json!({}), &chain(101)).unwrap_err();
        assert!(too_deep.to_string().contains(TOO_DEEP));
        assert_eq!(merge(&mut json!({}), &chain(100)), Ok(()));
    }

    #[test]
    fn insertions_and_removals_at_the_front_of_a_long_list_are_bounded() {
        let list = json!([{"op": "add", "path": "/zz", "value": vec![0; 700_000]}]);
        for operation in [
            json!({"op": "add", "path": "/zz/0", "value": 0}),
            json!({"op": "remove", "path": "/zz/0"}),
            json!({"op": "move", "from": "/zz/0", "path": "/zz/-"}),
        ] {
            let mut operations = list.as_array().cloned().unwrap_or_default();
            operations.extend(vec![operation; 2_500]);
            let refused = json(&mut json!({}), operations.into()).unwrap_err();
            assert!(matches!(&refused, PatchError::TooLarge(_)), "{refused}");
        }
    }

    /// Recorded from a kube-apiserver of v1.36.
    #[test]
    fn items_may_be_counted_from_the_end_of_a_list() {
        let rows = [
            (json!({"op": "remove", "path": "/l/-1"}), Some("ab")),
            (json!({"op": "test", "path": "/l/-3", "value": "a"}), Some("abc")),
            (json!({"op": "add", "path": "/l/-1", "value": "x"}), Some("abcx")),
            (json!({"op": "add", "path": "/l/-2", "value": "x"}), Some("abxc")),
            (json!({"op": "replace", "path": "/l/-1", "value": "x"}), Some("abx")),
            (json!({"op": "copy", "from": "/l/-1", "path": "/l/0"}), Some("cabc")),
            (json!({"op": "move", "from": "/l/-1", "path": "/l/0"}), Some("cab")),
            (json!({"op": "move", "from": "/l/0", "path": "/l/-1"}), Some("bca")),
            (json!({"op": "move", "from": "/l/0", "path": "/l/-2"}), Some("bac")),
            (json!({"op": "remove", "path": "/l/01"}), Some("ac")),
            (json!({"op": "add", "path": "/l/+1", "value": "x"}), Some("axbc")),
            (json!({"op": "remove", "path": "/l/-4"}), None),
            (json!({"op": "add", "path": "/l/-5", "value": "x"}), None),
            (json!({"op": "remove", "path": "/l/-"}), None),
            (json!({"op": "replace", "path": "/l/-", "value": "x"}), None),
            (json!({"op": "move", "from": "/l/3", "path": "/l/0"}), None),
        ];
        for (operation, wanted) in rows {
            let mut object = json!({"l": ["a", "b", "c"]});
            let result = super::json(&mut object, json!([operation]));
            let letters: String = object["l"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert_eq!(result.is_ok().then_some(letters.as_str()), wanted, "{operation}");
            assert!(result.is_ok() || letters == "abc", "{operation} changed the object and failed");
        }
    }

    #[test]
    fn a_failed_test_is_another_error_than_a_failed_operation() {
        let found = |patch: Value| json(&mut json!({"a": 1}), Value::Array(vec![patch])).unwrap_err();
        assert!(matches!(found(json!({"op": "test", "path": "/a", "value": 2})), PatchError::TestFailed(_)));
        assert!(matches!(found(json!({"op": "remove", "path": "/b"})), PatchError::DoesNotApply(_)));
        assert!(matches!(found(json!({"op": "nonsense"})), PatchError::Malformed(_)));
    }
}

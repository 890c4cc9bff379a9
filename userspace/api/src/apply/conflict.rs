//! The 409 of an apply that would change fields of other managers.

use serde_json::{Value, json};

use super::field_set::FieldSet;
use super::managers::ManagerId;
use crate::{Reason, Status};

/// The fields of each other manager that an apply would change, in the order of the managers.
pub(super) type Conflicts = Vec<(ManagerId, FieldSet)>;

/// The conflicts outside the allowed fields.
pub(super) fn without(conflicts: Conflicts, allowed: &FieldSet) -> Conflicts {
    let rest = conflicts.into_iter().map(|(id, mut fields)| {
        fields.subtract(allowed);
        (id, fields)
    });
    rest.filter(|(_, fields)| !fields.is_empty()).collect()
}

/// 409, with a cause for each field.
pub(super) fn status(conflicts: &Conflicts) -> Status {
    let all: Vec<(&ManagerId, String)> = conflicts
        .iter()
        .flat_map(|(id, fields)| fields.paths().into_iter().map(move |path| (id, path)))
        .collect();
    let causes: Vec<Value> = all
        .iter()
        .map(|(id, path)| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {id}"), "field": path}))
        .collect();
    let message = match all.as_slice() {
        [(id, path)] => format!("Apply failed with 1 conflict: conflict with {id}: {path}"),
        all => {
            let mut lines = Vec::new();
            for (id, fields) in conflicts {
                lines.push(format!("conflicts with {id}:"));
                lines.extend(fields.paths().iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n"))
        }
    };
    Status::new(Reason::Conflict, message).with_details(json!({"causes": causes}))
}

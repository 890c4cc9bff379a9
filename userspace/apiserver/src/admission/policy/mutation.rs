//! One mutation of a policy: an expression that says what to change, and the object that comes of it.

use serde_json::Value;
use skep_api::cel::{self, Bindings, Budget, CelError, Message};
use skep_api::patch::{self, PatchError};
use skep_api::{Status, apply};

use crate::admission::Request;
use crate::admission::expression::Expression;
use crate::admission::seen::Seen;

pub(super) enum Mutation {
    /// `Object{...}`, to be merged into the object.
    Apply(Expression),
    /// `[JSONPatch{...}]`, its operations.
    Patch(Expression),
}

/// Why there is no new object.
#[derive(Debug)]
pub(super) enum Fault {
    /// The policy may say that this does not matter.
    Mutation(String),
    /// The request cannot be gone on with.
    Request(Status),
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault::Mutation(why)
    }
}

fn told(error: CelError) -> Fault {
    Fault::Mutation(error.to_string())
}

impl Mutation {
    pub(super) fn of(mutation: &Value) -> Mutation {
        match mutation["patchType"].as_str() {
            Some("JSONPatch") => Mutation::Patch(Expression::of_patch(&mutation["jsonPatch"]["expression"])),
            _ => Mutation::Apply(Expression::of_patch(&mutation["applyConfiguration"]["expression"])),
        }
    }

    pub(super) fn apply(
        &self,
        request: &Request<'_>,
        seen: &Seen,
        known: &Bindings<'static>,
        budget: &mut Budget,
    ) -> Result<Value, Fault> {
        match self {
            Mutation::Apply(expression) => {
                let value = expression.evaluate(known, budget)?;
                let (new, _) = seen.completed(request, merged(request, seen, &value, budget)?)?;
                Ok(new)
            }
            Mutation::Patch(expression) => {
                let value = expression.evaluate(known, budget)?;
                let Some(new) = patched(seen, &value, budget)? else { return Ok(seen.object.clone()) };
                let (new, unknown) = seen.completed(request, new)?;
                if !unknown.is_empty() && seen.kind.custom.is_none() {
                    let why = format!("strict decoding error: {}", unknown.join(", "));
                    return Err(Fault::Request(Status::internal(why)));
                }
                Ok(new)
            }
        }
    }
}

fn merged(
    request: &Request<'_>,
    seen: &Seen,
    value: &cel::Value,
    budget: &mut Budget,
) -> Result<Value, Fault> {
    if Message::of(value).is_none_or(|message| !message.is_object()) {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned().into());
    }
    let mut change = cel::to_json(value, budget).map_err(told)?;
    for field in ["apiVersion", "kind"] {
        change[field] = seen.object[field].clone();
    }
    apply::overlay(&seen.kind, request.shape, &seen.object, &change)
        .map_err(|why| Fault::Mutation(format!("error applying patch: {why}")))
}

/// `None` if the object is not as a `test` of the patch wants it: then nothing is changed.
fn patched(seen: &Seen, value: &cel::Value, budget: &mut Budget) -> Result<Option<Value>, Fault> {
    let mismatch = |of: &str| format!("type mismatch: JSONPatchType.expression should evaluate to {of}");
    let cel::Value::List(operations) = value else { return Err(mismatch("array").into()) };
    if operations.iter().any(|operation| Message::of(operation).is_none_or(|message| !message.is_operation()))
    {
        return Err(mismatch("array of JSONPatch").into());
    }
    let mut new = seen.object.clone();
    let change = cel::to_json(value, budget).map_err(told)?;
    match patch::json(&mut new, change) {
        Ok(()) => Ok(Some(new)),
        Err(PatchError::TestFailed(_)) => Ok(None),
        Err(why) => Err(format!("JSON Patch: {why}").into()),
    }
}

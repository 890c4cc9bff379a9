//! Applies one mutation of a policy to an object.

use serde_json::Value;
use skep_api::cel::{self, Bindings, Budget, CelError, Message};
use skep_api::patch::{self, PatchError};
use skep_api::{Status, apply};

use super::definition::Mutation;
use crate::admission::request::Request;
use crate::admission::versioned_attributes::VersionedAttributes;

/// Why a mutation failed.
#[derive(Debug)]
pub(super) enum MutationError {
    /// The policy's own failure, subject to its `failurePolicy`.
    Policy(String),
    /// The request is refused, whatever the `failurePolicy`.
    Request(Status),
}

impl From<String> for MutationError {
    fn from(why: String) -> MutationError {
        MutationError::Policy(why)
    }
}

fn policy_error(error: CelError) -> MutationError {
    MutationError::Policy(error.to_string())
}

impl Mutation {
    pub(super) fn apply(
        &self,
        request: &Request<'_>,
        versioned: &VersionedAttributes,
        known: &Bindings<'_>,
        budget: &mut Budget,
    ) -> Result<Value, MutationError> {
        match self {
            Mutation::Apply(expression) => {
                let value = expression.evaluate(known, budget)?;
                let (new, _) = versioned.complete(request, merged(request, versioned, &value, budget)?)?;
                Ok(new)
            }
            Mutation::Patch(expression) => {
                let value = expression.evaluate(known, budget)?;
                let Some(new) = patched(versioned, &value, budget)? else {
                    return Ok(versioned.object.clone());
                };
                let (new, unknown) = versioned.complete(request, new)?;
                if !unknown.is_empty() && versioned.kind.custom.is_none() {
                    let why = format!("strict decoding error: {}", unknown.join(", "));
                    return Err(MutationError::Request(Status::internal(why)));
                }
                Ok(new)
            }
        }
    }
}

fn merged(
    request: &Request<'_>,
    versioned: &VersionedAttributes,
    value: &cel::Value<'_>,
    budget: &mut Budget,
) -> Result<Value, MutationError> {
    if Message::of(value).is_none_or(|message| !message.is_object()) {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned().into());
    }
    let mut change = cel::to_json(value, budget).map_err(policy_error)?;
    for field in ["apiVersion", "kind"] {
        change[field] = versioned.object[field].clone();
    }
    apply::overlay(&versioned.kind, request.shape, &versioned.object, &change)
        .map_err(|why| MutationError::Policy(format!("error applying patch: {why}")))
}

/// `None` if a `test` operation of the patch fails: then nothing is changed.
fn patched(
    versioned: &VersionedAttributes,
    value: &cel::Value<'_>,
    budget: &mut Budget,
) -> Result<Option<Value>, MutationError> {
    let mismatch = |of: &str| format!("type mismatch: JSONPatchType.expression should evaluate to {of}");
    let cel::Value::List(operations) = value else { return Err(mismatch("array").into()) };
    let operations = operations.items().map_err(policy_error)?;
    if operations.iter().any(|operation| Message::of(operation).is_none_or(|message| !message.is_operation()))
    {
        return Err(mismatch("array of JSONPatch").into());
    }
    let mut new = versioned.object.clone();
    let change = cel::to_json(value, budget).map_err(policy_error)?;
    match patch::json(&mut new, change) {
        Ok(()) => Ok(Some(new)),
        Err(PatchError::TestFailed(_)) => Ok(None),
        Err(why) => Err(format!("JSON Patch: {why}").into()),
    }
}

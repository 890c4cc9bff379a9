//! Admission policies: expressions over a request and parameters, put in force by bindings. Matching and variables are the
//! same for all policies; the body differs: [`Validating`] or [`Mutating`].

mod definition;
mod mutating;
mod mutation;
mod params;
mod validating;
mod validation;

use std::sync::Arc;

use serde_json::Value;
use skep_api::KindRef;
use skep_api::cel::{self, Bindings};

use super::request::Request;
use super::variables::bindings;
use super::versioned_attributes::VersionedAttributes;

pub(super) use definition::{AdmissionPolicy, Mutating, PolicyBinding, Validating};
pub(super) use mutating::mutate;
pub(super) use validating::validate;

/// A policy in force for a request through a binding, with one of its parameters or the reason why it has none.
struct PolicyInvocation<'a, T> {
    policy: &'a AdmissionPolicy<T>,
    binding: &'a PolicyBinding,
    /// The kind that the policy matched.
    kind: KindRef,
    param: Result<Value, String>,
}

/// All policies in force, in the order of their names.
fn in_force<'a, T>(
    request: &Request<'_>,
    object: &Value,
    policies: &'a [Arc<AdmissionPolicy<T>>],
    bindings: &'a [Arc<PolicyBinding>],
) -> Vec<PolicyInvocation<'a, T>> {
    let mut invocations = Vec::new();
    for policy in policies {
        let mut bound = bindings.iter().filter(|binding| binding.policy == policy.name).peekable();
        if bound.peek().is_none() {
            continue;
        }
        let Some(kind) = policy.rules.match_request(request, object) else { continue };
        for binding in bound.filter(|binding| binding.rules.match_request(request, object).is_some()) {
            let invocation = |param| PolicyInvocation { policy, binding, kind: kind.clone(), param };
            match params::of(request, policy.params.as_ref(), &binding.params) {
                Ok(params) => invocations.extend(params.into_iter().map(|param| invocation(Ok(param)))),
                Err(why) => invocations.push(invocation(Err(format!("failed to configure binding: {why}")))),
            }
        }
    }
    invocations
}

impl<T> PolicyInvocation<'_, T> {
    /// The request in the policy's version, and the parameter.
    async fn inputs(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<(VersionedAttributes, &Value), String> {
        let param = self.param.as_ref().map_err(String::clone)?;
        let versioned = VersionedAttributes::of(request, self.kind.clone(), object).await;
        Ok((versioned.map_err(|status| format!("failed to configure policy: {}", status.message))?, param))
    }

    /// The variables of the policy's expressions without those that it defines.
    fn bindings<'v>(
        &self,
        request: &Request<'_>,
        versioned: &'v VersionedAttributes,
        param: &'v Value,
    ) -> Bindings<'v> {
        let mut bindings = bindings(request, versioned);
        bindings.insert("params", cel::of_json(param));
        bindings.insert("namespaceObject", namespace_object(request));
        bindings
    }
}

/// The `namespaceObject` variable: null for a cluster-scoped request.
fn namespace_object(request: &Request<'_>) -> cel::Value<'static> {
    if request.namespace().is_empty() {
        return cel::Value::Null;
    }
    let found = request.get("", "v1", "namespaces", "", request.namespace());
    found.map_or(cel::Value::Null, |namespace| cel::of_owned_json(&namespace.value()))
}

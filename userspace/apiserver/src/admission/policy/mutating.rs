//! MutatingAdmissionPolicies: the policies in force change an object one after the other.

use serde_json::{Value, json};
use skep_api::cel::{Budget, PER_CONDITIONS, PER_OBJECT};
use skep_api::{Reason, Status, meta};

use super::definition::Mutating;
use super::mutation::MutationError;
use super::{PolicyInvocation, in_force};
use crate::admission::reinvocation::Reinvocation;
use crate::admission::request::Request;
use crate::admission::versioned_attributes::VersionedAttributes;
use crate::blocking::run_blocking;

/// Identifies an invocation in the second round: the names of policy, binding and parameter.
pub(in crate::admission) type Key = (String, String, String);

/// Failures of policies that fail closed: message and reason.
struct Failures(Vec<(String, Reason)>);

/// Applies all policies that are in force to the object.
pub(in crate::admission) async fn mutate(
    request: &Request<'_>,
    object: &mut Value,
    rounds: &mut Reinvocation<Key>,
) -> Result<(), Status> {
    let hooks = &request.admission.hooks;
    let (policies, bindings) = (hooks.mutating_policies.all(), hooks.mutating_bindings.all());
    let mut failures = Failures(Vec::new());
    let mut applied = false;
    for invocation in &in_force(request, object, &policies, &bindings) {
        let (versioned, param) = match invocation.inputs(request, object).await {
            Ok(found) => found,
            Err(why) => {
                failures.add(invocation, &why, Reason::Forbidden);
                continue;
            }
        };
        let key = invocation.key(param);
        match run_blocking(|| invocation.conditions(request, &versioned, param)) {
            Ok(true) if rounds.take_due(&key) => {}
            Ok(_) => continue,
            Err(why) => {
                failures.add(invocation, &why, Reason::Invalid);
                continue;
            }
        }
        let (new, any) = run_blocking(|| invocation.run(request, &versioned, param, &mut failures))?;
        applied |= any;
        if new != versioned.object {
            *object = versioned.to_request_version(request, new).await?;
            rounds.mark_changed();
        }
        if invocation.policy.body.reinvoke_if_needed {
            rounds.add_reinvocable(key);
        }
    }
    // As upstream: once any mutation was applied, all reinvocable policies are due again.
    if applied {
        rounds.mark_changed();
    }
    rounds.finish_round(object);
    failures.into_result(request, object)
}

impl PolicyInvocation<'_, Mutating> {
    fn key(&self, param: &Value) -> Key {
        let param = format!("{}/{}", meta::namespace(param), meta::name(param));
        (self.policy.name.clone(), self.binding.name.clone(), param)
    }

    fn conditions(
        &self,
        request: &Request<'_>,
        versioned: &VersionedAttributes,
        param: &Value,
    ) -> Result<bool, String> {
        let conditions = &self.policy.conditions;
        if conditions.is_empty() {
            return Ok(true);
        }
        conditions.hold(&self.bindings(request, versioned, param), &mut Budget(PER_CONDITIONS))
    }

    /// The object after all mutations, and whether any was applied. A mutation that fails leaves the object to the next one.
    fn run(
        &self,
        request: &Request<'_>,
        versioned: &VersionedAttributes,
        param: &Value,
        failures: &mut Failures,
    ) -> Result<(Value, bool), Status> {
        let mut now = VersionedAttributes {
            kind: versioned.kind.clone(),
            object: versioned.object.clone(),
            old_object: versioned.old_object.clone(),
        };
        let mut applied = false;
        if now.object.is_null() {
            return Ok((now.object, false));
        }
        for mutation in &self.policy.body.mutations {
            let mut budget = Budget(PER_OBJECT);
            let mut known = self.bindings(request, &now, param);
            self.policy.set_variables(&mut known, &mut budget);
            let mutated = mutation.apply(request, &now, &known, &mut budget);
            match mutated {
                Ok(new) => {
                    now.object = new;
                    applied = true;
                }
                Err(MutationError::Policy(why)) => failures.add(self, &why, Reason::Invalid),
                Err(MutationError::Request(status)) => return Err(status),
            }
        }
        Ok((now.object, applied))
    }
}

impl Failures {
    fn add(&mut self, invocation: &PolicyInvocation<'_, Mutating>, why: &str, reason: Reason) {
        if !invocation.policy.ignores_failure {
            let (policy, binding) = (&invocation.policy.name, &invocation.binding.name);
            let message = format!("policy '{policy}' with binding '{binding}' denied request: {why}");
            self.0.push((message, reason));
        }
    }

    /// The first failure is the answer; all are its causes.
    fn into_result(self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let Some((message, reason)) = self.0.first() else { return Ok(()) };
        let mut refusal = request.forbidden(object, "");
        refusal.message = message.clone();
        refusal.reason = *reason;
        for (message, _) in &self.0 {
            refusal = refusal.with_cause(json!({"message": message}));
        }
        Err(refusal)
    }
}

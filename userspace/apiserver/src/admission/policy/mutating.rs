//! MutatingAdmissionPolicies: what is to be changed of objects, one policy after the other, each about what the last left.

use serde_json::{Value, json};
use skep_api::cel::{Budget, PER_OBJECT};
use skep_api::{Reason, Status, meta};

use super::mutation::{Fault, Mutation};
use super::{Policy, Turn, in_force};
use crate::admission::Request;
use crate::admission::rounds::Rounds;
use crate::admission::seen::Seen;
use crate::write;

pub(crate) struct Mutating {
    mutations: Vec<Mutation>,
    may_be_asked_again: bool,
}

impl Mutating {
    pub(in crate::admission) fn policy(policy: &Value) -> Policy<Mutating> {
        let spec = &policy["spec"];
        let mutations = spec["mutations"].as_array().into_iter().flatten().map(Mutation::of).collect();
        let may_be_asked_again = spec["reinvocationPolicy"] == "IfNeeded";
        Policy::of(policy, Mutating { mutations, may_be_asked_again })
    }
}

/// A policy's turn, for another round: the names of policy, binding and parameter.
pub(in crate::admission) type Key = (String, String, String);

/// What went wrong with policies that may not fail, in their words.
struct Failures(Vec<(String, Reason)>);

/// Has all policies that are in force change the object.
pub(in crate::admission) async fn mutate(
    request: &Request<'_>,
    object: &mut Value,
    rounds: &mut Rounds<Key>,
) -> Result<(), Status> {
    let hooks = &request.call.server.hooks;
    let (policies, bindings) = (hooks.mutating_policies.all(), hooks.mutating_bindings.all());
    let mut failures = Failures(Vec::new());
    let mut touched = false;
    for turn in &in_force(request, object, &policies, &bindings) {
        let (seen, param) = match turn.sees(request, object).await {
            Ok(found) => found,
            Err(why) => {
                failures.add(turn, &why, Reason::Forbidden);
                continue;
            }
        };
        let key = turn.key(param);
        match write::aside(|| turn.conditions(request, &seen, param)) {
            Ok(true) if rounds.takes(&key) => {}
            Ok(_) => continue,
            Err(why) => {
                failures.add(turn, &why, Reason::Invalid);
                continue;
            }
        }
        let (new, done) = write::aside(|| turn.run(request, &seen, param, &mut failures))?;
        touched |= done;
        if new != seen.object {
            *object = seen.back(request, new).await?;
            rounds.change();
        }
        if turn.policy.body.may_be_asked_again {
            rounds.remember(key);
        }
    }
    // As upstream: a policy that may be asked again is, once any has been run.
    if touched {
        rounds.change();
    }
    rounds.end(object);
    failures.end(request, object)
}

impl Turn<'_, Mutating> {
    fn key(&self, param: &Value) -> Key {
        let param = format!("{}/{}", meta::namespace(param), meta::name(param));
        (self.policy.name.clone(), self.binding.name.clone(), param)
    }

    fn conditions(&self, request: &Request<'_>, seen: &Seen, param: &Value) -> Result<bool, String> {
        let conditions = &self.policy.conditions;
        if conditions.is_empty() {
            return Ok(true);
        }
        conditions.hold(&self.known(request, seen, param), &mut Budget(PER_OBJECT))
    }

    /// The object after all mutations, and whether there was any that could be made. One that fails leaves the object to
    /// the next.
    fn run(
        &self,
        request: &Request<'_>,
        seen: &Seen,
        param: &Value,
        failures: &mut Failures,
    ) -> Result<(Value, bool), Status> {
        let mut now = Seen { kind: seen.kind.clone(), object: seen.object.clone(), old: seen.old.clone() };
        let mut touched = false;
        if now.object.is_null() {
            return Ok((now.object, false));
        }
        for mutation in &self.policy.body.mutations {
            let mut budget = Budget(PER_OBJECT);
            let mut known = self.known(request, &now, param);
            self.policy.set_variables(&mut known, &mut budget);
            match mutation.apply(request, &now, &known, &mut budget) {
                Ok(new) => {
                    now.object = new;
                    touched = true;
                }
                Err(Fault::Mutation(why)) => failures.add(self, &why, Reason::Invalid),
                Err(Fault::Request(status)) => return Err(status),
            }
        }
        Ok((now.object, touched))
    }
}

impl Failures {
    fn add(&mut self, turn: &Turn<'_, Mutating>, why: &str, reason: Reason) {
        if !turn.policy.ignores_failure {
            let (policy, binding) = (&turn.policy.name, &turn.binding.name);
            let told = format!("policy '{policy}' with binding '{binding}' denied request: {why}");
            self.0.push((told, reason));
        }
    }

    /// The first is the answer; all are its causes.
    fn end(self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
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

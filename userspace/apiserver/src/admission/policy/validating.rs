//! ValidatingAdmissionPolicies: what objects must be, and what is noted of them.

use serde_json::{Value, json};
use skep_api::cel::{self, Bindings, Budget, PER_OBJECT};
use skep_api::{Reason, Status};

use super::validation::Validation;
use super::{Binding, Policy, Turn, in_force, named};
use crate::admission::Request;
use crate::admission::expression::Expression;
use crate::write;

/// Bytes of an audit annotation's value at most.
const ANNOTATION_MAX: usize = 10 << 10;
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// What a policy demands of objects.
pub(crate) struct Validating {
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

impl Validating {
    pub(in crate::admission) fn policy(policy: &Value) -> Policy<Validating> {
        let spec = &policy["spec"];
        let validations = spec["validations"].as_array().into_iter().flatten().map(Validation::of).collect();
        let annotations = named(&spec["auditAnnotations"], "key", "valueExpression");
        Policy::of(policy, Validating { validations, annotations })
    }
}

/// Why an object does not pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) message: String,
    /// Of a validation that did not hold; an error has none.
    pub(super) reason: Reason,
}

impl Decision {
    fn error(message: String) -> Decision {
        Decision { message, reason: Reason::Invalid }
    }
}

/// Holds a request against all policies that are in force for it; the first refusal is the answer.
pub(in crate::admission) async fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let hooks = &request.call.server.hooks;
    let bindings = hooks.validating_bindings.all();
    if bindings.is_empty() {
        return Ok(());
    }
    let policies = hooks.validating_policies.all();
    let mut refusal = None;
    for turn in in_force(request, object, &policies, &bindings) {
        let Turn { policy, binding, .. } = &turn;
        let found = match turn.sees(request, object).await {
            Ok((seen, param)) => {
                let known = turn.known(request, &seen, param);
                write::aside(|| policy.enforce(request, object, binding, known))
            }
            Err(_) if policy.ignores_failure => None,
            Err(why) => Some(policy.refusal(request, object, binding, &Decision::error(why))),
        };
        refusal = refusal.or(found);
    }
    refusal.map_or(Ok(()), Err)
}

impl Policy<Validating> {
    /// What a binding makes of the policy: warnings, notes, and the first refusal.
    fn enforce(
        &self,
        request: &Request<'_>,
        object: &Value,
        binding: &Binding,
        known: Bindings<'static>,
    ) -> Option<Status> {
        let mut refusal = None;
        for (at, decision) in self.decide(request, known) {
            let refused = self.act(request, object, binding, at, &decision);
            refusal = refusal.or(refused);
        }
        refusal
    }

    /// The decisions against an object, each with the number of its validation.
    fn decide(&self, request: &Request<'_>, mut known: Bindings<'static>) -> Vec<(usize, Decision)> {
        let mut budget = Budget(PER_OBJECT);
        match self.conditions.hold(&known, &mut budget) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(_) if self.ignores_failure => return Vec::new(),
            Err(why) => return vec![(0, Decision::error(why))],
        }
        self.set_variables(&mut known, &mut budget);
        let mut decisions = Vec::new();
        for (at, validation) in self.body.validations.iter().enumerate() {
            match validation.decide(&known, &mut budget) {
                Ok(None) => {}
                Ok(Some(decision)) => decisions.push((at, decision)),
                Err(_) if self.ignores_failure => {}
                Err(why) => decisions.push((at, Decision::error(why))),
            }
        }
        decisions.extend(self.annotate(request, &known).into_iter().map(|decision| (0, decision)));
        decisions
    }

    /// Notes for the audit log; what keeps one from being made counts as a failure.
    fn annotate(&self, request: &Request<'_>, known: &Bindings<'static>) -> Vec<Decision> {
        let mut failed = Vec::new();
        let mut budget = Budget(PER_OBJECT);
        for (key, expression) in &self.body.annotations {
            match expression.evaluate(known, &mut budget) {
                Ok(cel::Value::Null) => {}
                Ok(cel::Value::String(text)) => {
                    let value: String = text.trim().chars().take(ANNOTATION_MAX).collect();
                    if !value.is_empty() {
                        request.call.notes.annotate(format!("{}/{key}", self.name), value);
                    }
                }
                Ok(_) => failed.push(Decision::error(format!(
                    "valueExpression '{}' resulted in unsupported return type. Return type must be either string or null.",
                    expression.source
                ))),
                Err(_) if self.ignores_failure => {}
                Err(why) => failed.push(Decision::error(why)),
            }
        }
        failed
    }

    fn act(
        &self,
        request: &Request<'_>,
        object: &Value,
        binding: &Binding,
        at: usize,
        decision: &Decision,
    ) -> Option<Status> {
        let mut refusal = None;
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => refusal = Some(self.refusal(request, object, binding, decision)),
                "Warn" => request.call.notes.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    self.name, binding.name, decision.message
                )),
                "Audit" => {
                    let failure = json!([{
                        "message": decision.message, "policy": self.name, "binding": binding.name,
                        "expressionIndex": at, "validationActions": binding.actions,
                    }]);
                    request.call.notes.annotate(FAILURE, failure.to_string());
                }
                _ => {}
            }
        }
        refusal
    }

    fn refusal(
        &self,
        request: &Request<'_>,
        object: &Value,
        binding: &Binding,
        decision: &Decision,
    ) -> Status {
        let message = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
            self.name, binding.name, decision.message
        );
        let object = if object.is_null() { request.old.unwrap_or(object) } else { object };
        let mut refusal = request.forbidden(object, message.as_str()).with_cause(json!({"message": message}));
        (refusal.reason, refusal.code) = (decision.reason, decision.reason.code());
        refusal
    }
}

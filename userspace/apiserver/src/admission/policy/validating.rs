//! ValidatingAdmissionPolicies: the policies in force refuse an object, warn about it or annotate the audit event.

use serde_json::{Value, json};
use skep_api::Status;
use skep_api::cel::{self, Bindings, Budget, PER_CONDITIONS, PER_OBJECT};

use super::definition::{AdmissionPolicy, PolicyBinding, Validating};
use super::validation::Violation;
use super::{PolicyInvocation, in_force};
use crate::admission::request::Request;
use crate::blocking::run_blocking;

/// Bytes; a longer audit annotation is cut.
const MAX_ANNOTATION_LENGTH: usize = 10 << 10;
const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";

/// Checks a request against all policies in force; the first refusal is the answer.
pub(in crate::admission) async fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let hooks = &request.admission.hooks;
    let bindings = hooks.validating_bindings.all();
    if bindings.is_empty() {
        return Ok(());
    }
    let policies = hooks.validating_policies.all();
    let mut refusal = None;
    for invocation in in_force(request, object, &policies, &bindings) {
        let PolicyInvocation { policy, binding, .. } = &invocation;
        let found = match invocation.inputs(request, object).await {
            Ok((versioned, param)) => {
                let known = invocation.bindings(request, &versioned, param);
                run_blocking(|| policy.enforce(request, object, binding, known))
            }
            Err(_) if policy.ignores_failure => None,
            Err(why) => Some(policy.refusal(request, object, binding, &Violation::error(why))),
        };
        refusal = refusal.or(found);
    }
    refusal.map_or(Ok(()), Err)
}

impl AdmissionPolicy<Validating> {
    /// Performs the binding's actions for each violation; returns the first refusal.
    fn enforce(
        &self,
        request: &Request<'_>,
        object: &Value,
        binding: &PolicyBinding,
        known: Bindings<'_>,
    ) -> Option<Status> {
        let mut refusal = None;
        for (at, violation) in self.check(request, known) {
            let refused = self.act(request, object, binding, at, &violation);
            refusal = refusal.or(refused);
        }
        refusal
    }

    /// The violations against an object, each with the number of its validation.
    fn check(&self, request: &Request<'_>, mut known: Bindings<'_>) -> Vec<(usize, Violation)> {
        let mut budget = Budget(PER_OBJECT);
        match self.conditions.hold(&known, &mut Budget(PER_CONDITIONS)) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(_) if self.ignores_failure => return Vec::new(),
            Err(why) => return vec![(0, Violation::error(why))],
        }
        self.set_variables(&mut known, &mut budget);
        let mut violations = Vec::new();
        for (at, validation) in self.body.validations.iter().enumerate() {
            match validation.check(&known, &mut budget) {
                Ok(None) => {}
                Ok(Some(violation)) => violations.push((at, violation)),
                Err(_) if self.ignores_failure => {}
                Err(why) => violations.push((at, Violation::error(why))),
            }
        }
        violations.extend(self.annotate(request, &known).into_iter().map(|violation| (0, violation)));
        violations
    }

    /// Notes for the audit log; what keeps one from being made counts as a failure.
    fn annotate(&self, request: &Request<'_>, known: &Bindings<'_>) -> Vec<Violation> {
        let mut failed = Vec::new();
        let mut budget = Budget(PER_OBJECT);
        for (key, expression) in &self.body.annotations {
            match expression.evaluate(known, &mut budget) {
                Ok(cel::Value::Null) => {}
                Ok(cel::Value::String(text)) => {
                    let value: String = text.trim().chars().take(MAX_ANNOTATION_LENGTH).collect();
                    if !value.is_empty() {
                        request.call.notes.annotate(format!("{}/{key}", self.name), value);
                    }
                }
                Ok(_) => failed.push(Violation::error(format!(
                    "valueExpression '{}' resulted in unsupported return type. Return type must be either string or null.",
                    expression.source
                ))),
                Err(_) if self.ignores_failure => {}
                Err(why) => failed.push(Violation::error(why)),
            }
        }
        failed
    }

    fn act(
        &self,
        request: &Request<'_>,
        object: &Value,
        binding: &PolicyBinding,
        at: usize,
        violation: &Violation,
    ) -> Option<Status> {
        let mut refusal = None;
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => refusal = Some(self.refusal(request, object, binding, violation)),
                "Warn" => request.call.notes.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    self.name, binding.name, violation.message
                )),
                "Audit" => {
                    let failure = json!([{
                        "message": violation.message, "policy": self.name, "binding": binding.name,
                        "expressionIndex": at, "validationActions": binding.actions,
                    }]);
                    request.call.notes.annotate(FAILURE_ANNOTATION, failure.to_string());
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
        binding: &PolicyBinding,
        violation: &Violation,
    ) -> Status {
        let message = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
            self.name, binding.name, violation.message
        );
        let object = if object.is_null() { request.old.unwrap_or(object) } else { object };
        let mut refusal = request.forbidden(object, message.as_str()).with_cause(json!({"message": message}));
        (refusal.reason, refusal.code) = (violation.reason, violation.reason.code());
        refusal
    }
}

//! ValidatingAdmissionPolicies: expressions over an object and its parameters, put in force by bindings.

mod params;
mod validation;

use serde_json::{Value, json};
use skep_api::cel::{self, Bindings, Budget, PER_OBJECT};
use skep_api::{Status, meta};

use super::Request;
use super::expression::{Conditions, Expression, bindings};
use super::rules::Rules;
use crate::write;
use validation::Validation;

/// Bytes of an audit annotation's value at most.
const ANNOTATION_MAX: usize = 10 << 10;
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

pub(crate) struct Policy {
    name: String,
    rules: Rules,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
    ignores_failure: bool,
    /// `apiVersion` and `kind` of its parameters, if it has any.
    params: Option<(String, String)>,
}

impl Policy {
    pub(super) fn of(policy: &Value) -> Policy {
        let spec = &policy["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = |list: &str, name: &str, expression: &str| -> Vec<(String, Expression)> {
            let all = spec[list].as_array().into_iter().flatten();
            all.map(|item| (text(&item[name]), Expression::of(&item[expression]))).collect()
        };
        let kind = &spec["paramKind"];
        Policy {
            name: meta::name(policy).to_owned(),
            rules: Rules::of_policy(&spec["matchConstraints"], false),
            conditions: Conditions::of(&spec["matchConditions"]),
            variables: named("variables", "name", "expression"),
            validations: spec["validations"].as_array().into_iter().flatten().map(Validation::of).collect(),
            annotations: named("auditAnnotations", "key", "valueExpression"),
            ignores_failure: spec["failurePolicy"] == "Ignore",
            params: kind.is_object().then(|| (text(&kind["apiVersion"]), text(&kind["kind"]))),
        }
    }
}

pub(crate) struct Binding {
    name: String,
    policy: String,
    rules: Rules,
    params: Value,
    actions: Vec<String>,
}

impl Binding {
    pub(super) fn of(binding: &Value) -> Binding {
        let spec = &binding["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        Binding {
            name: meta::name(binding).to_owned(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            rules: Rules::of_policy(&spec["matchResources"], true),
            params: spec["paramRef"].clone(),
            actions: actions.filter_map(|action| action.as_str().map(str::to_owned)).collect(),
        }
    }
}

/// Why an object does not pass.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    message: String,
    /// Of a validation that did not hold; an error has none.
    reason: &'static str,
}

impl Decision {
    fn error(message: String) -> Decision {
        Decision { message, reason: "" }
    }
}

/// Holds a request against all policies that are in force for it; the first refusal is the answer.
pub(super) fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let hooks = &request.call.server.hooks;
    let all = hooks.bindings.all();
    if all.is_empty() {
        return Ok(());
    }
    let mut refusal = None;
    for policy in hooks.policies.all() {
        let bound = || all.iter().filter(|binding| binding.policy == policy.name);
        if bound().next().is_none() || !policy.rules.match_request(request, object) {
            continue;
        }
        let known = bindings(request, object);
        for binding in bound().filter(|binding| binding.rules.match_request(request, object)) {
            let found = write::aside(|| policy.enforce(request, object, binding, &known));
            refusal = refusal.or(found);
        }
    }
    refusal.map_or(Ok(()), Err)
}

impl Policy {
    /// What a binding makes of the policy: warnings, notes, and the first refusal.
    fn enforce(
        &self,
        request: &Request<'_>,
        object: &Value,
        binding: &Binding,
        known: &Bindings<'static>,
    ) -> Option<Status> {
        let params = match params::of(request, self.params.as_ref(), &binding.params) {
            Ok(params) => params,
            Err(_) if self.ignores_failure => return None,
            Err(why) => {
                let decision = Decision::error(format!("failed to configure binding: {why}"));
                return Some(self.refusal(request, object, binding, &decision));
            }
        };
        let mut refusal = None;
        for param in &params {
            let mut known = known.clone();
            known.insert("params", cel::of_json(param));
            known.insert("namespaceObject", namespace_object(request));
            for (at, decision) in self.decide(request, known) {
                let refused = self.act(request, object, binding, at, &decision);
                refusal = refusal.or(refused);
            }
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
        for (at, validation) in self.validations.iter().enumerate() {
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

    /// Each may use those before it. One that fails is not there, which fails who asks for it.
    fn set_variables(&self, known: &mut Bindings<'static>, budget: &mut Budget) {
        let mut values: Vec<(String, cel::Value)> = Vec::new();
        known.insert("variables", cel::of_fields(std::iter::empty()));
        for (name, expression) in &self.variables {
            if let Ok(value) = expression.evaluate(known, budget) {
                values.push((name.clone(), value));
                known.insert("variables", cel::of_fields(values.iter().cloned()));
            }
        }
    }

    /// Notes for the audit log; what keeps one from being made counts as a failure.
    fn annotate(&self, request: &Request<'_>, known: &Bindings<'static>) -> Vec<Decision> {
        let mut failed = Vec::new();
        let mut budget = Budget(PER_OBJECT);
        for (key, expression) in &self.annotations {
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
        (refusal.reason, refusal.code) = match decision.reason {
            "Unauthorized" => ("Unauthorized", 401),
            "Forbidden" => ("Forbidden", 403),
            "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
            _ => ("Invalid", 422),
        };
        refusal
    }
}

/// The request's namespace, as expressions may see it: a namespace itself has none.
fn namespace_object(request: &Request<'_>) -> cel::Value {
    if request.namespace().is_empty() {
        return cel::Value::Null;
    }
    let found = request.get("", "v1", "namespaces", "", request.namespace());
    found.map_or(cel::Value::Null, |namespace| cel::of_json(&namespace.value()))
}

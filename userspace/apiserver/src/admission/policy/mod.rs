//! Admission policies: expressions over a request and parameters, put in force by bindings. What they do with a request is
//! the body of a policy: [`Validating`] or [`Mutating`]; for whom they are and what they know is one and the same.

mod mutating;
mod mutation;
mod params;
mod validating;
mod validation;

use std::sync::Arc;

use serde_json::Value;
use skep_api::cel::{self, Bindings, Budget};
use skep_api::{KindRef, meta};

use super::Request;
use super::expression::{Conditions, Expression, bindings};
use super::rules::Rules;
use super::seen::Seen;

pub(super) use mutating::{Mutating, mutate};
pub(super) use validating::{Validating, validate};

pub(crate) struct Policy<T> {
    name: String,
    rules: Rules,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    ignores_failure: bool,
    /// `apiVersion` and `kind` of its parameters, if it has any.
    params: Option<(String, String)>,
    body: T,
}

impl<T> Policy<T> {
    fn of(policy: &Value, body: T) -> Policy<T> {
        let spec = &policy["spec"];
        let kind = &spec["paramKind"];
        Policy {
            name: meta::name(policy).to_owned(),
            rules: Rules::of_policy(&spec["matchConstraints"], false),
            conditions: Conditions::of(&spec["matchConditions"]),
            variables: named(&spec["variables"], "name", "expression"),
            ignores_failure: spec["failurePolicy"] == "Ignore",
            params: kind.is_object().then(|| (text(&kind["apiVersion"]), text(&kind["kind"]))),
            body,
        }
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
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Expressions by their names.
fn named(list: &Value, name: &str, expression: &str) -> Vec<(String, Expression)> {
    let all = list.as_array().into_iter().flatten();
    all.map(|item| (text(&item[name]), Expression::of(&item[expression]))).collect()
}

pub(crate) struct Binding {
    name: String,
    policy: String,
    rules: Rules,
    params: Value,
    /// Of a validating policy: what follows from a validation that does not hold.
    actions: Vec<String>,
}

impl Binding {
    pub(super) fn of(binding: &Value) -> Binding {
        let spec = &binding["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        Binding {
            name: meta::name(binding).to_owned(),
            policy: text(&spec["policyName"]),
            rules: Rules::of_policy(&spec["matchResources"], true),
            params: spec["paramRef"].clone(),
            actions: actions.filter_map(|action| action.as_str().map(str::to_owned)).collect(),
        }
    }
}

/// A policy in force for a request, by a binding, with one of its parameters; or why there is none.
struct Turn<'a, T> {
    policy: &'a Policy<T>,
    binding: &'a Binding,
    /// The version in which the policy sees the object.
    kind: KindRef,
    param: Result<Value, String>,
}

/// All that are in force, in the order of their names.
fn in_force<'a, T>(
    request: &Request<'_>,
    object: &Value,
    policies: &'a [Arc<Policy<T>>],
    bindings: &'a [Arc<Binding>],
) -> Vec<Turn<'a, T>> {
    let mut turns = Vec::new();
    for policy in policies {
        let mut bound = bindings.iter().filter(|binding| binding.policy == policy.name).peekable();
        if bound.peek().is_none() {
            continue;
        }
        let Some(kind) = policy.rules.match_request(request, object) else { continue };
        for binding in bound.filter(|binding| binding.rules.match_request(request, object).is_some()) {
            let turn = |param| Turn { policy, binding, kind: kind.clone(), param };
            match params::of(request, policy.params.as_ref(), &binding.params) {
                Ok(params) => turns.extend(params.into_iter().map(|param| turn(Ok(param)))),
                Err(why) => turns.push(turn(Err(format!("failed to configure binding: {why}")))),
            }
        }
    }
    turns
}

impl<T> Turn<'_, T> {
    /// The request as the policy sees it, and the parameter.
    async fn sees(&self, request: &Request<'_>, object: &Value) -> Result<(Seen, &Value), String> {
        let param = self.param.as_ref().map_err(String::clone)?;
        let seen = Seen::of(request, self.kind.clone(), object).await;
        Ok((seen.map_err(|status| format!("failed to configure policy: {}", status.message))?, param))
    }

    /// What the policy's expressions can speak of, but for its variables.
    fn known(&self, request: &Request<'_>, seen: &Seen, param: &Value) -> Bindings<'static> {
        let mut known = bindings(request, seen);
        known.insert("params", cel::of_json(param));
        known.insert("namespaceObject", namespace_object(request));
        known
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

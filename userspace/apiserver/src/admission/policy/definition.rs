//! Policies and bindings as read from their objects, with expressions compiled. What is absent: requests.

use std::collections::BTreeMap;

use serde_json::Value;
use skep_api::cel::{self, Bindings, Budget, CelError, RequestScope, Scope, Type};
use skep_api::meta;

use super::validation::Validation;
use crate::admission::expression::{Conditions, Expression};
use crate::admission::rules::MatchRules;

/// A policy; `T` is what only a mutating or only a validating one has.
pub(crate) struct AdmissionPolicy<T> {
    pub(super) name: String,
    pub(super) rules: MatchRules,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) ignores_failure: bool,
    /// `apiVersion` and `kind` of its parameters, if it has any.
    pub(super) params: Option<(String, String)>,
    pub(super) body: T,
}

impl<T> AdmissionPolicy<T> {
    fn of(policy: &Value, body: impl FnOnce(&Value, &RequestScope) -> T) -> AdmissionPolicy<T> {
        let spec = &policy["spec"];
        let kind = &spec["paramKind"];
        let mut scope = RequestScope::default();
        if kind.is_object() {
            scope = scope.with_params(Type::Dyn.into());
        }
        let conditions = Conditions::of(&spec["matchConditions"], &scope.scope());
        let mut variables = Vec::new();
        for variable in spec["variables"].as_array().into_iter().flatten() {
            let (expression, of) = Expression::typed(&variable["expression"], &scope.policy_scope());
            let name = text(&variable["name"]);
            scope.add_variable(&name, of);
            variables.push((name, expression));
        }
        AdmissionPolicy {
            name: meta::name(policy).to_owned(),
            rules: MatchRules::of_policy(&spec["matchConstraints"], false),
            conditions,
            variables,
            ignores_failure: spec["failurePolicy"] == "Ignore",
            params: kind.is_object().then(|| (text(&kind["apiVersion"]), text(&kind["kind"]))),
            body: body(spec, &scope),
        }
    }

    /// Adds the policy's variables in order; each may use those before it. An expression that uses one that failed fails.
    pub(super) fn set_variables(&self, known: &mut Bindings<'_>, budget: &mut Budget) {
        let mut values = BTreeMap::new();
        known.insert("variables", cel::of_results(BTreeMap::new()));
        for (name, expression) in &self.variables {
            let value = expression.evaluate(known, budget).map_err(|why| {
                CelError::Evaluation(format!("composited variable \"{name}\" fails to evaluate: {why}"))
            });
            values.insert(name.clone(), value);
            known.insert("variables", cel::of_results(values.clone()));
        }
    }
}

pub(crate) struct Mutating {
    pub(super) mutations: Vec<Mutation>,
    pub(super) reinvoke_if_needed: bool,
}

impl Mutating {
    pub(in crate::admission) fn policy(policy: &Value) -> AdmissionPolicy<Mutating> {
        AdmissionPolicy::of(policy, |spec, scope| {
            let scope = scope.policy_scope().of_mutations();
            let mutations = spec["mutations"].as_array().into_iter().flatten();
            Mutating {
                mutations: mutations.map(|mutation| Mutation::of(mutation, &scope)).collect(),
                reinvoke_if_needed: spec["reinvocationPolicy"] == "IfNeeded",
            }
        })
    }
}

/// What a policy demands of objects.
pub(crate) struct Validating {
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<(String, Expression)>,
}

impl Validating {
    pub(in crate::admission) fn policy(policy: &Value) -> AdmissionPolicy<Validating> {
        AdmissionPolicy::of(policy, |spec, scope| {
            let without_authorizer = scope.without_authorizer();
            let (scope, of_messages) = (scope.policy_scope(), without_authorizer.policy_scope());
            let validations = spec["validations"].as_array().into_iter().flatten();
            let annotations = spec["auditAnnotations"].as_array().into_iter().flatten();
            Validating {
                validations: validations.map(|one| Validation::of(one, &scope, &of_messages)).collect(),
                annotations: annotations
                    .map(|one| (text(&one["key"]), Expression::of(&one["valueExpression"], &scope)))
                    .collect(),
            }
        })
    }
}

/// One mutation of a policy.
pub(crate) enum Mutation {
    /// An expression that returns `Object{...}`, which is merged into the object.
    Apply(Expression),
    /// An expression that returns `[JSONPatch{...}]`.
    Patch(Expression),
}

impl Mutation {
    pub(super) fn of(mutation: &Value, scope: &Scope<'_>) -> Mutation {
        match mutation["patchType"].as_str() {
            Some("JSONPatch") => Mutation::Patch(Expression::of(&mutation["jsonPatch"]["expression"], scope)),
            _ => Mutation::Apply(Expression::of(&mutation["applyConfiguration"]["expression"], scope)),
        }
    }
}

/// A binding, which puts a policy in force.
pub(crate) struct PolicyBinding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) rules: MatchRules,
    pub(super) params: Value,
    /// `validationActions` of a validating policy.
    pub(super) actions: Vec<String>,
}

impl PolicyBinding {
    pub(in crate::admission) fn of(binding: &Value) -> PolicyBinding {
        let spec = &binding["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        PolicyBinding {
            name: meta::name(binding).to_owned(),
            policy: text(&spec["policyName"]),
            rules: MatchRules::of_policy(&spec["matchResources"], true),
            params: spec["paramRef"].clone(),
            actions: actions.filter_map(|action| action.as_str().map(str::to_owned)).collect(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

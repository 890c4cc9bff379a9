//! Policies and bindings as read from their objects, with expressions compiled. What is absent: requests.

use serde_json::Value;
use skep_api::cel::{self, Bindings, Budget};
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
    fn of(policy: &Value, body: T) -> AdmissionPolicy<T> {
        let spec = &policy["spec"];
        let kind = &spec["paramKind"];
        AdmissionPolicy {
            name: meta::name(policy).to_owned(),
            rules: MatchRules::of_policy(&spec["matchConstraints"], false),
            conditions: Conditions::of(&spec["matchConditions"]),
            variables: named(&spec["variables"], "name", "expression"),
            ignores_failure: spec["failurePolicy"] == "Ignore",
            params: kind.is_object().then(|| (text(&kind["apiVersion"]), text(&kind["kind"]))),
            body,
        }
    }

    /// Adds the policy's variables in order; each may use those before it. One that fails is absent, and an expression that
    /// uses it fails.
    pub(super) fn set_variables(&self, known: &mut Bindings<'static>, budget: &mut Budget) {
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

pub(crate) struct Mutating {
    pub(super) mutations: Vec<Mutation>,
    pub(super) reinvoke_if_needed: bool,
}

impl Mutating {
    pub(in crate::admission) fn policy(policy: &Value) -> AdmissionPolicy<Mutating> {
        let spec = &policy["spec"];
        let mutations = spec["mutations"].as_array().into_iter().flatten().map(Mutation::of).collect();
        let reinvoke_if_needed = spec["reinvocationPolicy"] == "IfNeeded";
        AdmissionPolicy::of(policy, Mutating { mutations, reinvoke_if_needed })
    }
}

/// What a policy demands of objects.
pub(crate) struct Validating {
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<(String, Expression)>,
}

impl Validating {
    pub(in crate::admission) fn policy(policy: &Value) -> AdmissionPolicy<Validating> {
        let spec = &policy["spec"];
        let validations = spec["validations"].as_array().into_iter().flatten().map(Validation::of).collect();
        let annotations = named(&spec["auditAnnotations"], "key", "valueExpression");
        AdmissionPolicy::of(policy, Validating { validations, annotations })
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
    pub(super) fn of(mutation: &Value) -> Mutation {
        match mutation["patchType"].as_str() {
            Some("JSONPatch") => Mutation::Patch(Expression::of_patch(&mutation["jsonPatch"]["expression"])),
            _ => Mutation::Apply(Expression::of_patch(&mutation["applyConfiguration"]["expression"])),
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

/// Expressions by their names.
pub(super) fn named(list: &Value, name: &str, expression: &str) -> Vec<(String, Expression)> {
    let all = list.as_array().into_iter().flatten();
    all.map(|item| (text(&item[name]), Expression::of(&item[expression]))).collect()
}

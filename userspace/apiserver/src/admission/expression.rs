//! Expressions of webhooks and policies: compiled once, evaluated within a budget.

use serde_json::{Value, json};
use skep_api::Kind;
use skep_api::cel::{self, Bindings, Budget, CelError, PER_CALL, Program};

use super::seen::Seen;
use super::{Operation, Request, authorizer};

/// An expression; one that does not compile says so whenever it is asked.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    program: Result<Program, CelError>,
}

impl Expression {
    pub(super) fn of(source: &Value) -> Expression {
        let source = source.as_str().unwrap_or_default().to_owned();
        Expression { program: Program::compile(&source), source }
    }

    /// One that makes `Object{...}` or `JSONPatch{...}`.
    pub(super) fn of_patch(source: &Value) -> Expression {
        let source = source.as_str().unwrap_or_default().to_owned();
        Expression { program: Program::compile_patch(&source), source }
    }

    /// No call takes more than its own share of what is left of the budget.
    pub(super) fn evaluate(
        &self,
        bindings: &Bindings<'_>,
        budget: &mut Budget,
    ) -> Result<cel::Value, String> {
        let told = |error: &CelError| match error {
            CelError::Compile(_) => format!("compilation error: {error}"),
            CelError::Budget => format!(
                "expression '{}' resulted in error: {error}, no further validation rules will be run",
                self.source
            ),
            CelError::Evaluation(_) => format!("expression '{}' resulted in error: {error}", self.source),
        };
        let program = self.program.as_ref().map_err(told)?;
        let mut share = Budget(budget.0.min(PER_CALL));
        let before = share.0;
        let value = cel::evaluate(program, bindings, &mut share);
        budget.0 -= before - share.0;
        value.map_err(|error| told(&error))
    }
}

/// `matchConditions`: a request must meet all of them.
#[derive(Debug)]
pub(super) struct Conditions(Vec<(String, Expression)>);

impl Conditions {
    pub(super) fn of(list: &Value) -> Conditions {
        let all = list.as_array().into_iter().flatten();
        Conditions(
            all.map(|condition| {
                let name = condition["name"].as_str().unwrap_or_default().to_owned();
                (name, Expression::of(&condition["expression"]))
            })
            .collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One that is not met decides, whatever becomes of the others.
    pub(super) fn hold(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<bool, String> {
        let mut errors = Vec::new();
        for (name, expression) in &self.0 {
            match expression.evaluate(bindings, budget) {
                Ok(cel::Value::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(why) => errors.push(format!("match condition '{name}': {why}")),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// What every expression can speak of: the object before and after, the request, and what its sender may do.
pub(super) fn bindings(request: &Request<'_>, seen: &Seen) -> Bindings<'static> {
    Bindings::from([
        ("object", cel::of_json(&seen.object)),
        ("oldObject", cel::of_json(&seen.old)),
        ("request", cel::of_json(&facts(request, seen))),
        ("namespaceObject", cel::Value::Null),
        ("authorizer", authorizer::variable(request, request.known_name(&seen.object))),
    ])
}

/// The request as reviews and expressions have it, without the objects.
pub(super) fn facts(request: &Request<'_>, seen: &Seen) -> Value {
    let identity = &request.call.identity;
    let kind_of = |kind: &Kind| {
        let (group, version, of) = request.shape.unwrap_or((kind.group, kind.version, kind.kind));
        json!({"group": group, "version": version, "kind": of})
    };
    let resource =
        |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let mut user = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    let mut facts = json!({
        "kind": kind_of(&seen.kind), "resource": resource(&seen.kind),
        "requestKind": kind_of(request.kind()), "requestResource": resource(request.kind()),
        "operation": request.operation.name(), "userInfo": user, "dryRun": request.dry_run, "options": options(request),
    });
    let name = request.known_name(&seen.object);
    // Upstream has a namespace be in itself.
    let namespace = if request.is_part("", "namespaces") { name } else { request.namespace() };
    for (field, value) in [
        ("subResource", request.subresource()),
        ("requestSubResource", request.subresource()),
        ("name", name),
        ("namespace", namespace),
    ] {
        if !value.is_empty() {
            facts[field] = value.into();
        }
    }
    facts
}

/// The options of the request's verb, as far as they were given.
fn options(request: &Request<'_>) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    for field in ["fieldManager", "fieldValidation", "propagationPolicy"] {
        if let Some(value) = request.call.query.get(field) {
            options[field] = value.into();
        }
    }
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(conditions: Value) -> Result<bool, String> {
        let bindings = Bindings::from([("object", cel::of_json(&json!({"a": 1})))]);
        Conditions::of(&conditions).hold(&bindings, &mut Budget(PER_CALL))
    }

    #[test]
    fn a_condition_that_is_not_met_decides() {
        let condition = |expression: &str| json!({"name": "c", "expression": expression});
        assert_eq!(hold(json!(null)), Ok(true));
        assert_eq!(hold(json!([condition("object.a == 1")])), Ok(true));
        assert_eq!(hold(json!([condition("object.b == 1"), condition("object.a == 2")])), Ok(false));
        assert_eq!(
            hold(json!([condition("object.b == 1")])),
            Err("match condition 'c': expression 'object.b == 1' resulted in error: no such key: b"
                .to_owned())
        );
        assert!(hold(json!([condition("object.")])).unwrap_err().contains("compilation error"));
    }
}

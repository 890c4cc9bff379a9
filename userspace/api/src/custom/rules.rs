//! Evaluates the rules of a schema (`x-kubernetes-validations`) over objects within a cost budget.

use serde_json::Value;

use super::schema::{Rule, Shape, Structural};
use super::validate::same_item;
use crate::cel::{self, Bindings, Budget, CelError, PER_CALL, PER_OBJECT, Program};
use crate::field::{Errors, Path};

/// Size limit of an evaluated message in bytes (cel.MaxEvaluatedMessageExpressionSizeBytes).
const MAX_MESSAGE_BYTES: usize = 5 << 10;

/// Evaluates all rules of an object; transition rules compare it with the old object.
pub(super) fn validate(schema: &Structural, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    if schema.has_rules() {
        let mut walk = Walk { budget: PER_OBJECT, ended: false, errors };
        walk.value(schema, object, old, &Path::new(""), true);
    }
}

struct Walk<'a> {
    budget: u64,
    /// No more rules are evaluated: a rule exceeded the budget.
    ended: bool,
    errors: &'a mut Errors,
}

impl Walk<'_> {
    fn value(
        &mut self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        resource: bool,
    ) {
        if value.is_null() || self.ended || !schema.has_rules() {
            return;
        }
        self.rules(schema, value, old, path, resource);
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let old = old.and_then(|old| old.get(name));
                    if let Some(inner) = schema.properties.get(name) {
                        self.value(inner, value, old, &path.child(name), inner.embedded);
                    } else if let Some(inner) = schema.additional.as_deref() {
                        self.value(inner, value, old, &path.key(name), inner.embedded);
                    }
                }
            }
            Value::Array(items) => {
                let Some(inner) = schema.items.as_deref() else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = same_item(schema, item, old);
                    self.value(inner, item, old, &path.index(index), inner.embedded);
                }
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        resource: bool,
    ) {
        if schema.rules.is_empty() {
            return;
        }
        let bound = cel::of_typed(value, schema, resource);
        let bound_old = old.map(|old| cel::of_typed(old, schema, resource)).transpose();
        let kind = Value::from(schema.shape.name());
        let (bound, bound_old) = match (bound, bound_old) {
            (Ok(bound), Ok(bound_old)) => (bound, bound_old),
            (Err(error), _) | (_, Err(error)) => return self.errors.invalid(path, &kind, &error.to_string()),
        };
        if self.budget == 0 {
            return self.exhausted(path, &kind);
        }
        for rule in schema.rules.iter() {
            if self.ended || rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let mut bindings = Bindings::from([("self", bound.clone())]);
            match (&bound_old, rule.optional_old) {
                (old, true) => drop(bindings.insert("oldSelf", cel::to_optional(old.clone()))),
                (Some(old), false) => drop(bindings.insert("oldSelf", old.clone())),
                (None, false) => {}
            }
            let unchanged = !rule.uses_old && old == Some(value);
            self.rule(rule, schema, value, &bindings, path, unchanged);
        }
    }

    fn rule(
        &mut self,
        rule: &Rule,
        schema: &Structural,
        value: &Value,
        bindings: &Bindings<'_>,
        path: &Path,
        unchanged: bool,
    ) {
        let kind = Value::from(schema.shape.name());
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => return self.errors.invalid(path, &kind, &format!("rule compile error: {error}")),
        };
        let rule_name = rule.shown();
        match self.evaluate(program, bindings) {
            Ok(cel::Value::Bool(true)) => return,
            Ok(_) => {}
            // The budget of the object is spent, or that of the call.
            Err(CelError::Budget) if self.budget == 0 => return self.exhausted(path, &kind),
            Err(CelError::Budget) => {
                let why = format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {rule_name}",
                    CelError::Budget
                );
                self.ended = true;
                return self.errors.invalid(path, &kind, &why);
            }
            Err(CelError::Evaluation(why)) if why.starts_with("no such overload") => {
                let why = format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {rule_name}"
                );
                return self.errors.invalid(path, &kind, &why);
            }
            Err(error) => {
                return self.errors.invalid(path, &kind, &format!("{error} evaluating rule: {rule_name}"));
            }
        }
        // Ratcheting: an unchanged value may stay invalid.
        if unchanged {
            return;
        }
        let message = self.message(rule, bindings);
        let at = match rule.field_path.trim() {
            "" => path.clone(),
            below => path.child(below.trim_start_matches('.')),
        };
        match rule.reason.as_str() {
            "FieldValueForbidden" => self.errors.forbidden(&at, &message),
            "FieldValueRequired" => self.errors.required(&at, &message),
            "FieldValueDuplicate" => self.errors.duplicate(&at, value),
            _ if matches!(schema.shape, Shape::Object | Shape::Array) => {
                self.errors.push(&at, "FieldValueInvalid", format!("Invalid value: {message}"));
            }
            _ => self.errors.invalid(&at, value, &message),
        }
    }

    fn exhausted(&mut self, path: &Path, kind: &Value) {
        self.ended = true;
        let why =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        self.errors.invalid(path, kind, why);
    }

    fn evaluate<'v>(
        &mut self,
        program: &Program,
        bindings: &Bindings<'v>,
    ) -> Result<cel::Value<'v>, CelError> {
        let allowed = self.budget.min(PER_CALL);
        let mut budget = Budget(allowed);
        let result = cel::evaluate(program, bindings, &mut budget);
        self.budget -= allowed - budget.0;
        result
    }

    fn message(&mut self, rule: &Rule, bindings: &Bindings<'_>) -> String {
        if let Some(Ok(program)) = &rule.message_program
            && let Ok(cel::Value::String(made)) = self.evaluate(program, bindings)
        {
            let made = made.trim();
            if !made.is_empty() && made.len() <= MAX_MESSAGE_BYTES && !made.contains('\n') {
                return made.to_owned();
            }
        }
        match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.shown()),
            said => said.to_owned(),
        }
    }
}

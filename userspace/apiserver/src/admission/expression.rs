//! Expressions of webhooks and policies: compiled once, evaluated within a budget.

use serde_json::Value;
use skep_api::cel::{self, Bindings, Budget, CelError, Checked, PER_CALL, Program, Scope, Type, compile};

/// An expression. One that does not compile returns the compilation error from each evaluation.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    program: Result<Program, CelError>,
}

impl Expression {
    pub(super) fn of(source: &Value, scope: &Scope<'_>) -> Expression {
        Expression::typed(source, scope).0
    }

    /// An expression with the type of its value.
    pub(super) fn typed(source: &Value, scope: &Scope<'_>) -> (Expression, Type) {
        let source = source.as_str().unwrap_or_default().trim().to_owned();
        let checked = compile(&source, scope);
        let of = checked.as_ref().map_or(Type::Dyn, |checked| checked.of().clone());
        (Expression { source, program: checked.map(Checked::into_program) }, of)
    }

    /// Costs at most `PER_CALL` of the budget.
    pub(super) fn evaluate<'a>(
        &self,
        bindings: &Bindings<'a>,
        budget: &mut Budget,
    ) -> Result<cel::Value<'a>, String> {
        let message = |error: &CelError| match error {
            CelError::Compile(_) => format!("compilation error: compilation failed: {error}"),
            CelError::Instantiation(_) => format!("compilation error: program instantiation failed: {error}"),
            CelError::Budget | CelError::Evaluation(_) => {
                format!("expression '{}' resulted in error: {error}", self.source)
            }
        };
        let exhausted =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        let program = self.program.as_ref().map_err(message)?;
        let mut share = Budget(budget.0.min(PER_CALL));
        let before = share.0;
        let value = cel::evaluate(program, bindings, &mut share);
        budget.0 -= before - share.0;
        match value {
            Err(CelError::Budget) if budget.0 == 0 => Err(exhausted.to_owned()),
            value => value.map_err(|error| message(&error)),
        }
    }
}

/// `matchConditions`: a request must meet all of them.
#[derive(Debug)]
pub(super) struct Conditions(Vec<Expression>);

impl Conditions {
    pub(super) fn of(list: &Value, scope: &Scope<'_>) -> Conditions {
        let all = list.as_array().into_iter().flatten();
        Conditions(all.map(|condition| Expression::of(&condition["expression"], scope)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One condition that is false decides, even if others fail. Equal errors are reported once.
    pub(super) fn hold(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<bool, String> {
        let mut errors = Vec::new();
        for expression in &self.0 {
            match expression.evaluate(bindings, budget) {
                Ok(cel::Value::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(why) if errors.contains(&why) => {}
                Err(why) => errors.push(why),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hold(conditions: Value) -> Result<bool, String> {
        let object = json!({"a": 1});
        let bindings = Bindings::from([("object", cel::of_json(&object))]);
        let conditions = Conditions::of(&conditions, &cel::RequestScope::default().scope());
        conditions.hold(&bindings, &mut Budget(PER_CALL))
    }

    #[test]
    fn a_condition_that_is_not_met_decides() {
        let condition = |expression: &str| json!({"name": "c", "expression": expression});
        assert_eq!(hold(json!(null)), Ok(true));
        assert_eq!(hold(json!([condition("object.a == 1")])), Ok(true));
        assert_eq!(hold(json!([condition("object.b == 1"), condition("object.a == 2")])), Ok(false));
        assert_eq!(
            hold(json!([condition("object.b == 1")])),
            Err("expression 'object.b == 1' resulted in error: no such key: b".to_owned())
        );
        assert!(hold(json!([condition("object.")])).unwrap_err().contains("compilation error"));
    }
}

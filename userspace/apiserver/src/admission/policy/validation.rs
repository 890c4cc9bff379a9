//! One validation of a policy: an expression that must hold, and what is said if it does not.

use serde_json::Value;
use skep_api::Reason;
use skep_api::cel::{self, Bindings, Budget};

use super::validating::Decision;
use crate::admission::expression::Expression;

/// Bytes of a message that an expression makes at most.
const MESSAGE_MAX: usize = 5 << 10;

pub(super) struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: Reason,
}

impl Validation {
    pub(super) fn of(validation: &Value) -> Validation {
        let made = &validation["messageExpression"];
        Validation {
            expression: Expression::of(&validation["expression"]),
            message: validation["message"].as_str().unwrap_or_default().trim().to_owned(),
            message_expression: made.as_str().filter(|made| !made.is_empty()).map(|_| Expression::of(made)),
            reason: match validation["reason"].as_str() {
                Some("Unauthorized") => Reason::Unauthorized,
                Some("Forbidden") => Reason::Forbidden,
                Some("RequestEntityTooLarge") => Reason::RequestEntityTooLarge,
                _ => Reason::Invalid,
            },
        }
    }

    pub(super) fn decide(
        &self,
        known: &Bindings<'static>,
        budget: &mut Budget,
    ) -> Result<Option<Decision>, String> {
        if matches!(self.expression.evaluate(known, budget)?, cel::Value::Bool(true)) {
            return Ok(None);
        }
        let made = self.message_expression.as_ref().and_then(|made| made.evaluate(known, budget).ok());
        let made = match made {
            Some(cel::Value::String(text)) => text.trim().to_owned(),
            _ => String::new(),
        };
        let message = if !made.is_empty() && made.len() <= MESSAGE_MAX && !made.contains('\n') {
            made
        } else if self.message.is_empty() {
            format!("failed expression: {}", self.expression.source.trim())
        } else {
            self.message.clone()
        };
        Ok(Some(Decision { message, reason: self.reason }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_api::cel::PER_OBJECT;

    use super::*;

    fn decide(validation: Value) -> Result<Option<(String, Reason)>, String> {
        let known = Bindings::from([("object", cel::of_json(&json!({"spec": {"replicas": 7}})))]);
        let decided = Validation::of(&validation).decide(&known, &mut Budget(PER_OBJECT))?;
        Ok(decided.map(|decision| (decision.message, decision.reason)))
    }

    #[test]
    fn what_is_said_is_made_or_given_or_the_expression() {
        let not = |message: &str, reason: Reason| Ok(Some((message.to_owned(), reason)));
        for (validation, wanted) in [
            (json!({"expression": "object.spec.replicas == 7"}), Ok(None)),
            (
                json!({"expression": "object.spec.replicas <= 5"}),
                not("failed expression: object.spec.replicas <= 5", Reason::Invalid),
            ),
            (
                json!({"expression": "false", "message": "no", "reason": "Forbidden"}),
                not("no", Reason::Forbidden),
            ),
            (
                json!({"expression": "false", "message": "no", "messageExpression": "'not ' + string(object.spec.replicas)"}),
                not("not 7", Reason::Invalid),
            ),
            (
                json!({"expression": "false", "message": "no", "messageExpression": "'a\\nb'"}),
                not("no", Reason::Invalid),
            ),
            (
                json!({"expression": "false", "message": "no", "messageExpression": "object.x"}),
                not("no", Reason::Invalid),
            ),
            (
                json!({"expression": "object.x > 1"}),
                Err("expression 'object.x > 1' resulted in error: no such key: x".to_owned()),
            ),
        ] {
            assert_eq!(decide(validation.clone()), wanted, "{validation}");
        }
    }
}

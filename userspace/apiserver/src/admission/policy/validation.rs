//! One validation of a policy: an expression that must be true, and the message and reason if it is not.

use serde_json::Value;
use skep_api::Reason;
use skep_api::cel::{self, Bindings, Budget, Scope};

use crate::admission::expression::Expression;

/// Bytes; a longer message of a `messageExpression` is not used.
const MAX_MESSAGE_LENGTH: usize = 5 << 10;

pub(super) struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: Reason,
}

/// Why an object does not pass a validation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) message: String,
    pub(super) reason: Reason,
}

impl Violation {
    pub(super) fn error(message: String) -> Violation {
        Violation { message, reason: Reason::Invalid }
    }
}

impl Validation {
    /// `of_messages`: the names of message expressions, which may not check authorization.
    pub(super) fn of(validation: &Value, scope: &Scope<'_>, of_messages: &Scope<'_>) -> Validation {
        let made = &validation["messageExpression"];
        Validation {
            expression: Expression::of(&validation["expression"], scope),
            message: validation["message"].as_str().unwrap_or_default().trim().to_owned(),
            message_expression: made
                .as_str()
                .filter(|made| !made.is_empty())
                .map(|_| Expression::of(made, of_messages)),
            reason: match validation["reason"].as_str() {
                Some("Unauthorized") => Reason::Unauthorized,
                Some("Forbidden") => Reason::Forbidden,
                Some("RequestEntityTooLarge") => Reason::RequestEntityTooLarge,
                _ => Reason::Invalid,
            },
        }
    }

    pub(super) fn check(
        &self,
        known: &Bindings<'_>,
        budget: &mut Budget,
    ) -> Result<Option<Violation>, String> {
        if matches!(self.expression.evaluate(known, budget)?, cel::Value::Bool(true)) {
            return Ok(None);
        }
        let made = self.message_expression.as_ref().and_then(|made| made.evaluate(known, budget).ok());
        let made = match made {
            Some(cel::Value::String(text)) => text.trim().to_owned(),
            _ => String::new(),
        };
        let message = if !made.is_empty() && made.len() <= MAX_MESSAGE_LENGTH && !made.contains('\n') {
            made
        } else if self.message.is_empty() {
            format!("failed expression: {}", self.expression.source.trim())
        } else {
            self.message.clone()
        };
        Ok(Some(Violation { message, reason: self.reason }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_api::cel::PER_OBJECT;

    use super::*;

    fn check(validation: Value) -> Result<Option<(String, Reason)>, String> {
        let object = json!({"spec": {"replicas": 7}});
        let known = Bindings::from([("object", cel::of_json(&object))]);
        let names = cel::RequestScope::default();
        let checked = Validation::of(&validation, &names.scope(), &names.scope())
            .check(&known, &mut Budget(PER_OBJECT))?;
        Ok(checked.map(|violation| (violation.message, violation.reason)))
    }

    #[test]
    fn the_message_is_computed_or_given_or_names_the_expression() {
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
            assert_eq!(check(validation.clone()), wanted, "{validation}");
        }
    }
}

//! CEL expressions of webhooks and admission policies: they must compile, name only what is known, and have the expected type.

use serde_json::Value;

use crate::cel::{CelError, Checked, Declared, JSON_PATCH, OBJECT, RequestScope, Type, compile};
use crate::field::{Errors, Path};

/// The type that an expression must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedType {
    Any,
    Bool,
    Text,
    TextOrNull,
    /// An apply configuration.
    Object,
    /// Operations of a JSON patch.
    Patch,
}

impl ExpectedType {
    /// Whether expressions may build objects and patches.
    fn is_mutation(self) -> bool {
        matches!(self, ExpectedType::Object | ExpectedType::Patch)
    }

    fn is_met_by(self, of: &Type) -> bool {
        match (self, of) {
            (ExpectedType::Any, _) => true,
            (ExpectedType::Bool, Type::Bool)
            | (ExpectedType::Text | ExpectedType::TextOrNull, Type::String) => true,
            (ExpectedType::TextOrNull, Type::Null) => true,
            (ExpectedType::Object, Type::Message(name)) => **name == *OBJECT,
            (ExpectedType::Patch, Type::List(of)) => {
                matches!(&**of, Type::Message(name) if **name == *JSON_PATCH)
            }
            _ => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            ExpectedType::Any => "any",
            ExpectedType::Bool => "bool",
            ExpectedType::Text => "string",
            ExpectedType::TextOrNull => "one of [string null_type]",
            ExpectedType::Object => "Object",
            ExpectedType::Patch => "list(JSONPatch)",
        }
    }
}

/// The names that expressions may use, with their types.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    names: RequestScope,
    /// Whether the expressions are those of a policy, which has variables.
    policy: bool,
}

impl Environment {
    /// The names of every expression about a request.
    pub(super) fn of_requests() -> Environment {
        Environment::default()
    }

    /// The names of a policy's expressions.
    pub(super) fn of_policies() -> Environment {
        Environment { policy: true, ..Environment::default() }
    }

    pub(super) fn with_params(mut self, of: Declared) -> Environment {
        self.names = self.names.with_params(of);
        self
    }

    /// Sets the type of `object` and `oldObject`.
    pub(super) fn with_object(mut self, of: &Declared) -> Environment {
        self.names = self.names.with_object(of);
        self
    }

    /// For expressions that may not check authorization.
    pub(super) fn without_authorizer(&self) -> Environment {
        Environment { names: self.names.without_authorizer(), policy: self.policy }
    }

    /// For expressions that may not use the policy's variables.
    pub(super) fn without_variables(&self) -> Environment {
        Environment { names: self.names.clone(), policy: false }
    }

    /// Adds a variable; one whose expression is invalid is dynamic to those after it.
    pub(super) fn add_checked(&mut self, variable: &Value, path: &Path, errors: &mut Errors) {
        let of = self.validate_field(variable, "expression", path, ExpectedType::Any, errors);
        let name = variable["name"].as_str().unwrap_or_default();
        self.names.add_variable(name, of.unwrap_or(Type::Dyn));
    }

    /// As [`Self::validate`]; a missing expression is reported by the name of its field.
    pub(super) fn validate_field(
        &self,
        owner: &Value,
        field: &str,
        path: &Path,
        expected: ExpectedType,
        errors: &mut Errors,
    ) -> Option<Type> {
        let at = path.child(field);
        if owner[field].as_str().is_none_or(|source| source.trim().is_empty()) {
            errors.required(&at, &format!("{field} is not specified"));
            return None;
        }
        self.validate(&owner[field], &at, expected, errors)
    }

    /// Checks an expression; returns its type if it is valid.
    pub(super) fn validate(
        &self,
        expression: &Value,
        path: &Path,
        expected: ExpectedType,
        errors: &mut Errors,
    ) -> Option<Type> {
        let Some(source) = expression.as_str().map(str::trim).filter(|source| !source.is_empty()) else {
            errors.required(path, "");
            return None;
        };
        match self.check(source, expected) {
            Err(CelError::Instantiation(why)) => {
                errors.invalid(path, expression, &format!("program instantiation failed: {why}"));
            }
            Err(error) => errors.invalid(path, expression, &format!("compilation failed: {error}")),
            Ok(checked) if !expected.is_met_by(checked.of()) => {
                let why = format!("must evaluate to {} but got {}", expected.name(), shown(checked.of()));
                errors.invalid(path, expression, &why);
            }
            Ok(checked) => return Some(checked.of().clone()),
        }
        None
    }

    pub(super) fn check(&self, source: &str, expected: ExpectedType) -> Result<Checked, CelError> {
        let scope = if self.policy { self.names.policy_scope() } else { self.names.scope() };
        compile(source, &if expected.is_mutation() { scope.of_mutations() } else { scope })
    }
}

/// The name of a type where only the type is named.
fn shown(of: &Type) -> String {
    match of {
        Type::Null => "null_type".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        other => other.to_string(),
    }
}

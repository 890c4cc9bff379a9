//! CEL expressions of webhooks and admission policies: they must compile, name only what is known, and have the expected type.

use serde_json::Value;

use crate::cel::{AUTHORIZER, CelError, Checked, JSON_PATCH, OBJECT, Program, Scope, Type, check};
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
    fn compile(self, source: &str) -> Result<Program, CelError> {
        match self {
            ExpectedType::Object | ExpectedType::Patch => Program::compile_patch(source),
            _ => Program::compile(source),
        }
    }

    fn is_met_by(self, of: &Type) -> bool {
        match (self, of) {
            (ExpectedType::Any, _) | (_, Type::Dyn) => true,
            (ExpectedType::Bool, Type::Bool)
            | (ExpectedType::Text | ExpectedType::TextOrNull, Type::String(_)) => true,
            (ExpectedType::TextOrNull, Type::Null) => true,
            (ExpectedType::Object, Type::Message(name)) => name == OBJECT,
            (ExpectedType::Patch, Type::List(of, _)) => match &**of {
                Type::Dyn => true,
                Type::Message(name) => name == JSON_PATCH,
                _ => false,
            },
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
#[derive(Clone, Debug)]
pub(super) struct Environment {
    known: Vec<(&'static str, Type)>,
    /// A policy's variables in their order: each may use those before it.
    variables: Vec<(String, Type)>,
}

impl Environment {
    /// The names of every expression about a request.
    pub(super) fn of_requests() -> Environment {
        let mut known: Vec<(&str, Type)> =
            ["object", "oldObject", "request", "namespaceObject"].map(|name| (name, Type::Dyn)).to_vec();
        known.push(("authorizer", Type::Message(AUTHORIZER.to_owned())));
        Environment { known, variables: Vec::new() }
    }

    pub(super) fn with_params(mut self, of: Type) -> Environment {
        self.known.push(("params", of));
        self
    }

    /// Sets the type of `object` and `oldObject`.
    pub(super) fn with_object(mut self, of: Type) -> Environment {
        let objects = self.known.iter_mut().filter(|(name, _)| matches!(*name, "object" | "oldObject"));
        objects.for_each(|(_, known)| *known = of.clone());
        self
    }

    /// For expressions that may not check authorization.
    pub(super) fn without_authorizer(&self) -> Environment {
        let mut environment = self.clone();
        environment.known.retain(|(name, _)| *name != "authorizer");
        environment
    }

    /// Adds a variable; one whose expression is invalid is dynamic to those after it.
    pub(super) fn add_checked(&mut self, variable: &Value, path: &Path, errors: &mut Errors) {
        let of = self.validate(&variable["expression"], &path.child("expression"), ExpectedType::Any, errors);
        let name = variable["name"].as_str().unwrap_or_default();
        self.variables.push((name.to_owned(), of.unwrap_or(Type::Dyn)));
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
            Err(error) => errors.invalid(path, expression, &format!("compilation failed: {error}")),
            Ok(Checked { of, .. }) if !expected.is_met_by(&of) => {
                let why = format!("must evaluate to {} but got {}", expected.name(), of.name());
                errors.invalid(path, expression, &why);
            }
            Ok(Checked { of, .. }) => return Some(of),
        }
        None
    }

    pub(super) fn check(&self, source: &str, expected: ExpectedType) -> Result<Checked, CelError> {
        let mut scope: Scope<'_> = self.known.iter().map(|(name, of)| (*name, of.clone())).collect();
        if !self.variables.is_empty() {
            scope.insert("variables", Type::Object(self.variables.clone()));
        }
        check(&expected.compile(source)?, &scope)
    }
}

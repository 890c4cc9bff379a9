//! CEL in configuration files: compiled when the file is read, evaluated within a budget.

use skep_api::Errors;
use skep_api::cel::{self, Bindings, Budget, CelError, Checked, PER_CALL, Program, Scope, Type};
use skep_api::field::Path;

/// Why an expression has no value. Names the expression, and none of the values that it read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expression '{source_text}' resulted in error: {error}")]
pub(crate) struct ExpressionError {
    source_text: String,
    error: CelError,
}

#[derive(Debug)]
pub(crate) struct ConfigExpression {
    source: String,
    program: Program,
}

impl ConfigExpression {
    pub(super) fn new(source: &str, checked: Checked) -> ConfigExpression {
        ConfigExpression { source: source.to_owned(), program: checked.into_program() }
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn evaluate<'a>(&self, bindings: &Bindings<'a>) -> Result<cel::Value<'a>, ExpressionError> {
        let value = cel::evaluate(&self.program, bindings, &mut Budget(PER_CALL));
        value.map_err(|error| ExpressionError { source_text: self.source.clone(), error })
    }

    /// The value of an expression that was compiled by [`compile_predicate`].
    pub(crate) fn holds(&self, bindings: &Bindings<'_>) -> Result<bool, ExpressionError> {
        Ok(matches!(self.evaluate(bindings)?, cel::Value::Bool(true)))
    }
}

/// Compiles an expression of any type. `None` if it cannot be; the error is at its field.
pub(super) fn compile(source: &str, scope: &Scope<'_>, path: &Path, errors: &mut Errors) -> Option<Checked> {
    let error = match cel::compile(source, scope) {
        Ok(checked) => return Some(checked),
        Err(error) => error,
    };
    let step = match &error {
        CelError::Instantiation(_) => "program instantiation failed",
        _ => "compilation failed",
    };
    errors.invalid(path, &source.into(), &format!("{step}: {error}"));
    None
}

/// Compiles an expression that must be true or false. `but_got`: whether the error names the type that it has.
pub(super) fn compile_predicate(
    source: &str,
    scope: &Scope<'_>,
    but_got: bool,
    path: &Path,
    errors: &mut Errors,
) -> Option<Checked> {
    let checked = compile(source, scope, path, errors)?;
    if matches!(checked.of(), Type::Bool) {
        return Some(checked);
    }
    let mut why = "must evaluate to bool".to_owned();
    if but_got {
        why = format!("{why} but got {}", checked.of());
    }
    errors.invalid(path, &source.into(), &why);
    None
}

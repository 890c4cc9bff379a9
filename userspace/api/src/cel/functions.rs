//! The table of functions: what the checker knows and what the evaluation calls. Operators are functions too.

use std::collections::HashMap;

use super::budget::CelError;
use super::types::Type;
use super::values::Value;

/// Computes the result of a call; the target of a method is the first argument.
pub(super) type Implementation = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, CelError>;

/// One signature of a function.
#[derive(Debug)]
pub(super) struct Overload {
    pub id: &'static str,
    pub function: &'static str,
    /// Whether it is a method: called on its first parameter.
    pub member: bool,
    pub params: Vec<Type>,
    pub result: Type,
    /// The number of its type parameters.
    pub variables: usize,
    /// `None` for operators that the evaluation itself computes, because they do not need all operands.
    pub call: Option<Implementation>,
    /// Whether only expressions of mutations may call it.
    pub mutation_only: bool,
}

/// All overloads by the name of their function.
#[derive(Debug, Default)]
pub(super) struct Table(HashMap<&'static str, Vec<Overload>>);

impl Table {
    /// The overloads of a function in the order of their declaration.
    pub(super) fn get(&self, function: &str) -> Option<&[Overload]> {
        self.0.get(function).map(Vec::as_slice)
    }

    fn add(&mut self, overload: Overload) {
        self.0.entry(overload.function).or_default().push(overload);
    }

    /// A function that is called by its name.
    pub(super) fn global(
        &mut self,
        function: &'static str,
        id: &'static str,
        params: impl Into<Vec<Type>>,
        result: Type,
        call: Implementation,
    ) {
        self.declare(function, id, false, params, result, Some(call));
    }

    /// A function that is called on a value.
    pub(super) fn member(
        &mut self,
        function: &'static str,
        id: &'static str,
        params: impl Into<Vec<Type>>,
        result: Type,
        call: Implementation,
    ) {
        self.declare(function, id, true, params, result, Some(call));
    }

    /// A function that the evaluation itself computes.
    pub(super) fn special(
        &mut self,
        function: &'static str,
        id: &'static str,
        member: bool,
        params: impl Into<Vec<Type>>,
        result: Type,
    ) {
        self.declare(function, id, member, params, result, None);
    }

    /// A function of expressions of mutations.
    pub(super) fn of_mutations(
        &mut self,
        function: &'static str,
        id: &'static str,
        params: impl Into<Vec<Type>>,
        result: Type,
        call: Implementation,
    ) {
        self.declare(function, id, false, params, result, Some(call));
        if let Some(overload) = self.0.get_mut(function).and_then(|all| all.last_mut()) {
            overload.mutation_only = true;
        }
    }

    fn declare(
        &mut self,
        function: &'static str,
        id: &'static str,
        member: bool,
        params: impl Into<Vec<Type>>,
        result: Type,
        call: Option<Implementation>,
    ) {
        let params: Vec<Type> = params.into();
        let variables = params.iter().chain([&result]).map(count_variables).max().unwrap_or(0);
        self.add(Overload { id, function, member, params, result, variables, call, mutation_only: false });
    }
}

/// One more than the highest variable in a type.
fn count_variables(of: &Type) -> usize {
    match of {
        Type::Variable(number) => number + 1,
        Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => count_variables(inner),
        Type::Map(inner) => count_variables(&inner.0).max(count_variables(&inner.1)),
        _ => 0,
    }
}

impl Overload {
    /// Whether the values are of the parameters' types.
    pub(super) fn accepts(&self, args: &[Value<'_>]) -> bool {
        self.params.len() == args.len() && self.params.iter().zip(args).all(|(of, value)| value.is_of(of))
    }
}

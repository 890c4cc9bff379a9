//! A compiled expression. In: a text and the types of names. Out: a [`Program`], with its type and cost, or the errors.

use std::collections::{HashMap, HashSet};

use super::budget::CelError;
use super::check::{Facts, check};
use super::cost::estimate;
use super::functions::Overload;
use super::literals;
use super::scope::Scope;
use super::syntax::{Ast, Expr, Id, Issue, Literal, op, parse, render};
use super::types::{Declared, Type};
use super::values::{List, Value};
use crate::regexp::Regexp;

/// Functions whose call with a constant is computed once.
const CONVERSIONS: [&str; 10] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

/// An expression that was checked and can be evaluated.
#[derive(Debug)]
pub struct Program {
    pub(super) ast: Ast,
    /// The overloads that each call may use.
    pub(super) overloads: Vec<Vec<&'static Overload>>,
    pub(super) constants: HashMap<Id, Value<'static>>,
    /// Calls that upstream's plan makes a look-up without cost: `x in [constants]`.
    pub(super) free_calls: HashSet<Id>,
}

/// A program with what its check found out.
#[derive(Debug)]
pub struct Checked {
    program: Program,
    types: Vec<Type>,
}

/// Compiles an expression that may use the names of the scope.
pub fn compile(source: &str, scope: &Scope<'_>) -> Result<Checked, CelError> {
    let refuse = |issues: Vec<Issue>| CelError::Compile(render(source, &issues));
    let mut ast = parse(source).map_err(refuse)?;
    let facts = check(&mut ast, scope).map_err(refuse)?;
    let issues = literals::check(&ast, &facts);
    if !issues.is_empty() {
        return Err(refuse(issues));
    }
    let Facts { types, overloads, type_names } = facts;
    let constants = type_names.into_iter().map(|(id, name)| (id, Value::Type(name))).collect();
    let mut program = Program { ast, overloads, constants, free_calls: HashSet::new() };
    program.fold_constants()?;
    Ok(Checked { program, types })
}

impl Checked {
    /// The type of the expression's value.
    pub fn of(&self) -> &Type {
        &self.types[self.program.ast.root]
    }

    /// The largest cost of an evaluation, with the bounds of a declared type.
    pub fn max_cost(&self, root: &Declared) -> u64 {
        estimate(&self.program.ast, &self.types, &self.program.overloads, root)
    }

    /// Whether the expression refers to a variable of this name.
    pub fn refers_to(&self, name: &str) -> bool {
        self.program.refers_to(name)
    }

    /// Whether the expression reads this field of a variable of this name: `name.field` or `name.?field`.
    pub fn selects(&self, name: &str, field: &str) -> bool {
        let ast = &self.program.ast;
        let is_variable = |id: Id| matches!(ast.expr(id), Expr::Ident(found) if **found == *name);
        let is_field = |id: Id| match ast.expr(id) {
            Expr::Literal(Literal::String(found)) => **found == *field,
            _ => false,
        };
        let mut pending = vec![ast.root];
        while let Some(id) = pending.pop() {
            let found = match ast.expr(id) {
                Expr::Select { operand, field: found, .. } => **found == *field && is_variable(*operand),
                Expr::Call { function, target: None, args } => match args.as_slice() {
                    [operand, name] if **function == *op::OPTIONAL_SELECT => {
                        is_variable(*operand) && is_field(*name)
                    }
                    _ => false,
                },
                _ => false,
            };
            if found {
                return true;
            }
            pending.extend(ast.children(id));
        }
        false
    }

    pub fn into_program(self) -> Program {
        self.program
    }
}

impl Program {
    /// Whether the expression refers to a variable of this name.
    pub fn refers_to(&self, name: &str) -> bool {
        let mut pending = vec![self.ast.root];
        while let Some(id) = pending.pop() {
            if matches!(self.ast.expr(id), Expr::Ident(found) if **found == *name) {
                return true;
            }
            pending.extend(self.ast.children(id));
        }
        false
    }

    /// Computes what depends on nothing. A conversion of a constant that fails refuses the expression.
    fn fold_constants(&mut self) -> Result<(), CelError> {
        // A node comes after those below it.
        for id in 0..self.ast.nodes.len() {
            if let Some(value) = self.constant(id)? {
                self.constants.insert(id, value);
            }
        }
        Ok(())
    }

    fn constant(&mut self, id: Id) -> Result<Option<Value<'static>>, CelError> {
        let known = |id: &Id| self.constants.get(id).cloned();
        Ok(match self.ast.expr(id) {
            Expr::Literal(literal) => Some(value_of(literal)),
            Expr::List { items, optional } if !optional.contains(&true) => {
                items.iter().map(known).collect::<Option<Vec<_>>>().map(Value::list)
            }
            Expr::Map(entries) if entries.iter().all(|entry| !entry.optional) => {
                let all = entries.iter().map(|entry| {
                    let key = super::values::Key::of(&known(&entry.key)?).ok()?;
                    Some((key, known(&entry.value)?))
                });
                all.collect::<Option<_>>().map(Value::map)
            }
            Expr::Call { function, target: None, args } if CONVERSIONS.contains(&&**function) => {
                let [arg] = args.as_slice() else { return Ok(None) };
                let Some(arg) = known(arg) else { return Ok(None) };
                let found =
                    self.overloads[id].iter().find(|overload| overload.accepts(std::slice::from_ref(&arg)));
                let Some(call) = found.and_then(|overload| overload.call) else { return Ok(None) };
                match call(&[arg]) {
                    Ok(value) => Some(value),
                    Err(error) => return Err(CelError::Instantiation(error.to_string())),
                }
            }
            Expr::Call { function, target, args } => {
                let pattern = match (&**function, target, args.as_slice()) {
                    ("matches", None, [_, pattern])
                    | ("matches" | "find" | "findAll", Some(_), [pattern, ..]) => Some(*pattern),
                    _ => None,
                };
                if let Some(Value::String(pattern)) = pattern.and_then(|pattern| known(&pattern)) {
                    if let Err(error) = Regexp::check(&pattern) {
                        return Err(CelError::Instantiation(format!("Illegal regex: {error}")));
                    }
                } else if let [overload] = self.overloads[id].as_slice()
                    && overload.id == "in_list"
                    && let Some(Value::List(List::Owned(list))) = args.get(1).and_then(known)
                {
                    if list.is_empty() {
                        return Ok(Some(Value::Bool(false)));
                    }
                    let is_primitive = |value: &Value<'_>| {
                        use Value::{Bool, Double, Int, String, Uint};
                        matches!(value, Bool(_) | Double(_) | Int(_) | String(_) | Uint(_))
                    };
                    if list.iter().all(is_primitive) {
                        self.free_calls.insert(id);
                    }
                }
                None
            }
            _ => None,
        })
    }
}

fn value_of(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(super::values::Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

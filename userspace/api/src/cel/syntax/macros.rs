//! Expands macros: calls that the parser turns into folds and presence tests.

use std::sync::Arc;

use super::ast::{ACCUMULATOR, Expr, Fold, Id, Literal, op};
use super::parser::{Parser, Stop};

type Parsed<T> = Result<T, Stop>;

/// The call, or what the macro of this name and number of arguments makes of it.
pub(super) fn expand(
    parser: &mut Parser,
    offset: usize,
    name: &Arc<str>,
    target: Option<Id>,
    args: Vec<Id>,
) -> Parsed<Id> {
    let mut macros = Macros { parser, offset };
    match (&**name, target, args.as_slice()) {
        ("has", None, [field]) => macros.has(*field),
        ("all" | "exists" | "exists_one", Some(range), [first, body]) => {
            macros.quantifier(name, range, &[*first], *body)
        }
        ("all" | "exists" | "exists_one" | "existsOne", Some(range), [first, second, body]) => {
            macros.quantifier(name, range, &[*first, *second], *body)
        }
        ("map", Some(range), [first, body]) => macros.map(range, *first, None, *body),
        ("map", Some(range), [first, filter, body]) => macros.map(range, *first, Some(*filter), *body),
        ("filter", Some(range), [first, filter]) => macros.map(range, *first, Some(*filter), *first),
        ("transformList" | "transformMap" | "transformMapEntry", Some(range), [first, second, body]) => {
            macros.transform(name, range, [*first, *second], None, *body)
        }
        (
            "transformList" | "transformMap" | "transformMapEntry",
            Some(range),
            [first, second, filter, body],
        ) => macros.transform(name, range, [*first, *second], Some(*filter), *body),
        ("optMap" | "optFlatMap", Some(operand), [first, body]) => {
            macros.optional(name, operand, *first, *body)
        }
        ("sortBy", Some(list), [first, key]) => macros.sort_by(list, *first, *key),
        _ => macros.parser.add(offset, Expr::Call { function: name.clone(), target, args }),
    }
}

struct Macros<'p> {
    parser: &'p mut Parser,
    /// The position of what the macro makes.
    offset: usize,
}

impl Macros<'_> {
    fn add(&mut self, expr: Expr) -> Parsed<Id> {
        self.parser.add(self.offset, expr)
    }

    fn literal(&mut self, value: Literal) -> Parsed<Id> {
        self.add(Expr::Literal(value))
    }

    fn accumulator(&mut self) -> Parsed<Id> {
        self.add(Expr::Ident(Arc::from(ACCUMULATOR)))
    }

    fn call(&mut self, function: &str, args: Vec<Id>) -> Parsed<Id> {
        self.parser.call(self.offset, function, args)
    }

    fn member(&mut self, function: &str, target: Id, args: Vec<Id>) -> Parsed<Id> {
        self.add(Expr::Call { function: Arc::from(function), target: Some(target), args })
    }

    fn list(&mut self, items: Vec<Id>) -> Parsed<Id> {
        let optional = vec![false; items.len()];
        self.add(Expr::List { items, optional })
    }

    fn error(&mut self, at: Id, message: &str) -> Parsed<Id> {
        let offset = self.parser.ast.nodes[at].offset;
        self.parser.report(offset, message)
    }

    fn name(&self, id: Id) -> Option<Arc<str>> {
        match self.parser.ast.expr(id) {
            Expr::Ident(name) => Some(name.clone()),
            _ => None,
        }
    }

    /// The names of iteration variables, or the node of the error that was reported.
    fn variables(&mut self, given: &[Id], not_a_name: &str) -> Parsed<Result<Vec<Arc<str>>, Id>> {
        let mut names = Vec::new();
        for id in given {
            let Some(name) = self.name(*id) else { return Ok(Err(self.error(*id, not_a_name)?)) };
            names.push(name);
        }
        if names.len() == 2 && names[0] == names[1] {
            let message = format!("duplicate variable name: {}", names[0]);
            return Ok(Err(self.error(given[1], &message)?));
        }
        for (id, name) in given.iter().zip(&names) {
            if &**name == "__result__" {
                let message = "iteration variable overwrites accumulator variable";
                return Ok(Err(self.error(*id, message)?));
            }
        }
        Ok(Ok(names))
    }

    fn has(&mut self, field: Id) -> Parsed<Id> {
        match self.parser.ast.expr(field) {
            Expr::Select { operand, field, .. } => {
                let (operand, field) = (*operand, field.clone());
                self.add(Expr::Select { operand, field, test: true })
            }
            _ => self.error(field, "invalid argument to has() macro"),
        }
    }

    fn quantifier(&mut self, name: &str, range: Id, given: &[Id], body: Id) -> Parsed<Id> {
        let names = match self.variables(given, "argument must be a simple name")? {
            Ok(names) => names,
            Err(reported) => return Ok(reported),
        };
        let (init, condition, step, result);
        match name {
            "all" => {
                init = self.literal(Literal::Bool(true))?;
                let accumulator = self.accumulator()?;
                condition = self.call(op::NOT_STRICTLY_FALSE, vec![accumulator])?;
                let accumulator = self.accumulator()?;
                step = self.call(op::AND, vec![accumulator, body])?;
                result = self.accumulator()?;
            }
            "exists" => {
                init = self.literal(Literal::Bool(false))?;
                let accumulator = self.accumulator()?;
                let not = self.call(op::NOT, vec![accumulator])?;
                condition = self.call(op::NOT_STRICTLY_FALSE, vec![not])?;
                let accumulator = self.accumulator()?;
                step = self.call(op::OR, vec![accumulator, body])?;
                result = self.accumulator()?;
            }
            _ => {
                init = self.literal(Literal::Int(0))?;
                condition = self.literal(Literal::Bool(true))?;
                let (accumulator, one) = (self.accumulator()?, self.literal(Literal::Int(1))?);
                let next = self.call(op::ADD, vec![accumulator, one])?;
                let accumulator = self.accumulator()?;
                step = self.call(op::CONDITIONAL, vec![body, next, accumulator])?;
                let (accumulator, one) = (self.accumulator()?, self.literal(Literal::Int(1))?);
                result = self.call(op::EQUALS, vec![accumulator, one])?;
            }
        }
        self.fold(range, names, init, condition, step, result)
    }

    fn fold(
        &mut self,
        range: Id,
        names: Vec<Arc<str>>,
        init: Id,
        condition: Id,
        step: Id,
        result: Id,
    ) -> Parsed<Id> {
        let mut names = names.into_iter();
        let first = names.next().unwrap_or_else(|| Arc::from("#unused"));
        let (second, accumulator) = (names.next(), Arc::from(ACCUMULATOR));
        self.add(Expr::Fold(Box::new(Fold {
            range,
            first,
            second,
            accumulator,
            init,
            condition,
            step,
            result,
        })))
    }

    /// A fold that collects what each step adds to an empty list or map.
    fn collect(
        &mut self,
        range: Id,
        names: Vec<Arc<str>>,
        init: Expr,
        filter: Option<Id>,
        add: impl FnOnce(&mut Self, Id) -> Parsed<Id>,
    ) -> Parsed<Id> {
        let init = self.add(init)?;
        let condition = self.literal(Literal::Bool(true))?;
        let accumulator = self.accumulator()?;
        let mut step = add(self, accumulator)?;
        if let Some(filter) = filter {
            let accumulator = self.accumulator()?;
            step = self.call(op::CONDITIONAL, vec![filter, step, accumulator])?;
        }
        let result = self.accumulator()?;
        self.fold(range, names, init, condition, step, result)
    }

    fn map(&mut self, range: Id, first: Id, filter: Option<Id>, body: Id) -> Parsed<Id> {
        let names = match self.variables(&[first], "argument is not an identifier")? {
            Ok(names) => names,
            Err(reported) => return Ok(reported),
        };
        self.collect(range, names, empty_list(), filter, |macros, accumulator| {
            let item = macros.list(vec![body])?;
            macros.call(op::ADD, vec![accumulator, item])
        })
    }

    fn transform(
        &mut self,
        name: &str,
        range: Id,
        given: [Id; 2],
        filter: Option<Id>,
        body: Id,
    ) -> Parsed<Id> {
        let names = match self.variables(&given, "argument must be a simple name")? {
            Ok(names) => names,
            Err(reported) => return Ok(reported),
        };
        let key = names[0].clone();
        let init = if name == "transformList" { empty_list() } else { Expr::Map(Vec::new()) };
        self.collect(range, names, init, filter, |macros, accumulator| match name {
            "transformList" => {
                let item = macros.list(vec![body])?;
                macros.call(op::ADD, vec![accumulator, item])
            }
            "transformMap" => {
                let key = macros.add(Expr::Ident(key))?;
                macros.call(op::MAP_INSERT, vec![accumulator, key, body])
            }
            _ => macros.call(op::MAP_INSERT, vec![accumulator, body]),
        })
    }

    /// Binds the value of an expression to a name.
    fn bind(&mut self, name: Arc<str>, value: Id, body: Id) -> Parsed<Id> {
        let range = self.list(Vec::new())?;
        let condition = self.literal(Literal::Bool(false))?;
        let step = self.add(Expr::Ident(name.clone()))?;
        self.add(Expr::Fold(Box::new(Fold {
            range,
            first: Arc::from("#unused"),
            second: None,
            accumulator: name,
            init: value,
            condition,
            step,
            result: body,
        })))
    }

    /// Copies a subtree.
    fn copy(&mut self, id: Id) -> Parsed<Id> {
        let mut expr = self.parser.ast.expr(id).clone();
        let offset = self.parser.ast.nodes[id].offset;
        match &mut expr {
            Expr::Literal(_) | Expr::Ident(_) => {}
            Expr::Select { operand, .. } => *operand = self.copy(*operand)?,
            Expr::Call { target, args, .. } => {
                for inner in target.iter_mut().chain(args) {
                    *inner = self.copy(*inner)?;
                }
            }
            Expr::List { items, .. } => {
                for inner in items {
                    *inner = self.copy(*inner)?;
                }
            }
            Expr::Map(entries) => {
                for entry in entries {
                    (entry.key, entry.value) = (self.copy(entry.key)?, self.copy(entry.value)?);
                }
            }
            Expr::Message { fields, .. } => {
                for field in fields {
                    field.value = self.copy(field.value)?;
                }
            }
            Expr::Fold(fold) => {
                for inner in
                    [&mut fold.range, &mut fold.init, &mut fold.condition, &mut fold.step, &mut fold.result]
                {
                    *inner = self.copy(*inner)?;
                }
            }
        }
        self.parser.add(offset, expr)
    }

    fn optional(&mut self, name: &str, operand: Id, first: Id, body: Id) -> Parsed<Id> {
        let Some(variable) = self.name(first) else {
            return self.error(first, &format!("{name}() variable name must be a simple identifier"));
        };
        let test = self.member("hasValue", operand, Vec::new())?;
        let copy = self.copy(operand)?;
        let value = self.member("value", copy, Vec::new())?;
        let mut some = self.bind(variable, value, body)?;
        if name == "optMap" {
            some = self.call("optional.of", vec![some])?;
        }
        let none = self.call("optional.none", Vec::new())?;
        self.call(op::CONDITIONAL, vec![test, some, none])
    }

    fn sort_by(&mut self, list: Id, first: Id, key: Id) -> Parsed<Id> {
        if matches!(self.parser.ast.expr(list), Expr::Literal(_) | Expr::Map(_) | Expr::Message { .. }) {
            let message =
                "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return self.error(list, message);
        }
        let input: Arc<str> = Arc::from("@__sortBy_input__");
        let range = self.add(Expr::Ident(input.clone()))?;
        let keys = self.map(range, first, None, key)?;
        let sorted = self.add(Expr::Ident(input.clone()))?;
        let body = self.member(op::SORT_BY_KEYS, sorted, vec![keys])?;
        self.bind(input, list, body)
    }
}

fn empty_list() -> Expr {
    Expr::List { items: Vec::new(), optional: Vec::new() }
}

//! A parsed expression of bounded depth that contains only what the evaluation supports. In: a text. Out: a [`Program`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};
use kube_cel::cel::parser::Parser;

use super::budget::CelError;
use super::message;

/// Nesting of an expression.
const MAX_DEPTH: usize = 150;
/// Operators and brackets of an expression: each may be a level of recursion when it is parsed or dropped.
const MAX_OPERATORS: usize = 1_000;

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Program {
    source: String,
    expression: IdedExpr,
}

impl Program {
    /// Parses an expression.
    pub fn compile(source: &str) -> Result<Program, CelError> {
        Program::parse(source, |_| false)
    }

    /// Parses an expression that may build `Object{...}` and `JSONPatch{...}`.
    pub fn compile_patch(source: &str) -> Result<Program, CelError> {
        Program::parse(source, message::is_type)
    }

    fn parse(source: &str, is_type: fn(&str) -> bool) -> Result<Program, CelError> {
        let deep =
            || CelError::Compile("ERROR: <input>:-1:0: expression recursion limit exceeded".to_owned());
        if operators(source) > MAX_OPERATORS || bracket_depth(source) > MAX_DEPTH / 2 {
            return Err(deep());
        }
        let parse = || Parser::new().enable_optional_syntax(true).parse(source);
        let parsed = catch_unwind(AssertUnwindSafe(parse))
            .map_err(|_| CelError::Compile(syntax(source, (1, 1), "the expression cannot be parsed")))?;
        let expression = parsed.map_err(|errors| {
            let messages: Vec<String> =
                errors.errors.iter().map(|error| syntax(source, error.pos, &error.msg)).collect();
            CelError::Compile(messages.join("\n"))
        })?;
        let program = Program { source: source.to_owned(), expression };
        let mut pending = vec![(&program.expression, 1)];
        while let Some((expression, depth)) = pending.pop() {
            if depth > MAX_DEPTH {
                return Err(deep());
            }
            match &expression.expr {
                Expr::Struct(made) if !is_type(&made.type_name) => {
                    return Err(undeclared(source, &made.type_name));
                }
                Expr::Unspecified => return Err(CelError::Compile(syntax(source, (1, 1), "no expression"))),
                _ => {}
            }
            pending.extend(children(expression).into_iter().map(|child| (child, depth + 1)));
        }
        Ok(program)
    }

    /// The text of the expression.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn expression(&self) -> &IdedExpr {
        &self.expression
    }

    /// Whether the expression refers to a variable of this name.
    pub fn refers_to(&self, name: &str) -> bool {
        let mut pending = vec![&self.expression];
        while let Some(expression) = pending.pop() {
            if matches!(&expression.expr, Expr::Ident(found) if found == name) {
                return true;
            }
            pending.extend(children(expression));
        }
        false
    }
}

/// An error in the format of upstream's compiler, with its position in the text.
pub(super) fn format_error(source: &str, (line, column): (usize, usize), what: &str) -> String {
    let text = source.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let points = ".".repeat(column.saturating_sub(1));
    format!("ERROR: <input>:{line}:{column}: {what}\n | {text}\n | {points}^")
}

fn undeclared(source: &str, type_name: &str) -> CelError {
    let before = &source[..source.find(type_name).unwrap_or_default()];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let what = format!("undeclared reference to '{type_name}' (in container '')");
    CelError::Compile(format_error(source, (line, column), &what))
}

fn syntax(source: &str, pos: (isize, isize), message: &str) -> String {
    let message = match message.strip_prefix("Syntax error: ") {
        Some(_) => message.to_owned(),
        None => format!("Syntax error: {message}"),
    };
    let position = |at: isize| usize::try_from(at).unwrap_or(0).max(1);
    format_error(source, (position(pos.0), position(pos.1)), &message)
}

fn operators(source: &str) -> usize {
    source.bytes().filter(|c| b"+-*/%&|<>=!?:.,([{".contains(c)).count()
}

/// The nesting depth of brackets.
fn bracket_depth(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for c in source.bytes() {
        match c {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn children(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(c) => {
            vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => {
            let entries = map.entries.iter().flat_map(|entry| values(&entry.expr));
            entries.collect()
        }
        Expr::Struct(made) => made.entries.iter().flat_map(|entry| values(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

fn values(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

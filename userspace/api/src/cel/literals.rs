//! Checks of literals after the types are known: durations, timestamps, regular expressions, formats, and that the items of
//! a list or map in the text have one type.

use super::check::Facts;
use super::library::{FormatCheck, Verb, check_format};
use super::syntax::{Ast, Expr, Id, Issue, Literal};
use super::types::Type;
use super::values::{Text, Value};
use crate::regexp::Regexp;

pub(super) fn check(ast: &Ast, facts: &Facts) -> Vec<Issue> {
    let mut literals = Literals { ast, facts, issues: Vec::new() };
    literals.visit(ast.root, false);
    literals.issues
}

struct Literals<'s> {
    ast: &'s Ast,
    facts: &'s Facts,
    issues: Vec<Issue>,
}

impl Literals<'_> {
    fn report(&mut self, at: Id, message: impl Into<String>) {
        self.issues.push(Issue::at(self.ast.nodes[at].offset, message));
    }

    /// `formatted`: within the arguments of `format`, whose list may be mixed.
    fn visit(&mut self, id: Id, formatted: bool) {
        let mut below_formatted = formatted;
        match self.ast.expr(id) {
            Expr::Call { function, target, args } => {
                self.arguments(id, function, args);
                if let ("format", Some(target), [list]) = (&**function, target, args.as_slice()) {
                    self.format(id, *target, *list);
                }
                below_formatted |= &**function == "format";
            }
            Expr::List { items, optional } if !formatted => {
                let types = items.iter().zip(optional).map(|(item, optional)| (*item, *optional)).collect();
                self.homogeneous(types, true);
            }
            Expr::Map(entries) if !formatted => {
                self.homogeneous(entries.iter().map(|entry| (entry.key, false)).collect(), false);
                self.homogeneous(entries.iter().map(|entry| (entry.value, entry.optional)).collect(), false);
            }
            _ => {}
        }
        for child in self.ast.children(id) {
            self.visit(child, below_formatted);
        }
    }

    fn homogeneous(&mut self, items: Vec<(Id, bool)>, first_only: bool) {
        let of = |(id, optional): (Id, bool)| match &self.facts.types[id] {
            Type::Optional(inner) if optional => (**inner).clone(),
            other => other.clone(),
        };
        let Some(expected) = items.first().copied().map(of) else { return };
        let wrong: Vec<(Id, Type)> =
            items.iter().map(|item| (item.0, of(*item))).filter(|(_, of)| *of != expected).collect();
        for (id, found) in wrong.into_iter().take(if first_only { 1 } else { usize::MAX }) {
            self.report(id, format!("expected type '{expected}' but found '{found}'"));
        }
    }

    fn arguments(&mut self, id: Id, function: &str, args: &[Id]) {
        let Some(arg) = args.first().copied() else { return };
        let Expr::Literal(literal) = self.ast.expr(arg) else { return };
        let is_valid = match (function, literal) {
            ("matches", Literal::String(pattern)) => Regexp::check(pattern).is_ok(),
            ("duration" | "timestamp", Literal::String(text)) => {
                self.converts(id, Value::String(Text::Shared(text.clone())))
            }
            ("duration" | "timestamp", Literal::Int(value)) => self.converts(id, Value::Int(*value)),
            _ => true,
        };
        if !is_valid {
            self.report(arg, format!("invalid {function} argument"));
        }
    }

    fn converts(&self, id: Id, value: Value<'_>) -> bool {
        let args = [value];
        let found = self.facts.overloads[id].iter().find(|overload| overload.accepts(&args));
        found.and_then(|overload| overload.call).is_none_or(|call| call(&args).is_ok())
    }

    fn format(&mut self, id: Id, target: Id, list: Id) {
        let (Expr::Literal(Literal::String(format)), Expr::List { items, .. }) =
            (self.ast.expr(target), self.ast.expr(list))
        else {
            return;
        };
        let (format, items) = (format.clone(), items.clone());
        let mut check = Arguments { ast: self.ast, facts: self.facts, items: &items };
        match check_format(&format, &mut check) {
            Err((at, why)) => self.report(at.unwrap_or(id), why),
            Ok(used) if items.len() > used => {
                let count = items.len();
                let why =
                    format!("too many arguments supplied to string.format (expected {used}, got {count})");
                self.report(id, why);
            }
            Ok(_) => {}
        }
    }
}

struct Arguments<'s> {
    ast: &'s Ast,
    facts: &'s Facts,
    items: &'s [Id],
}

impl FormatCheck for Arguments<'_> {
    fn argument(&mut self, index: usize, verb: Verb) -> Result<(), (usize, String)> {
        self.items.get(index).map_or(Ok(()), |item| self.fits(*item, verb))
    }

    fn count(&self) -> usize {
        self.items.len()
    }
}

impl Arguments<'_> {
    fn fits(&self, id: Id, verb: Verb) -> Result<(), (usize, String)> {
        use Type::{
            Bool, Bytes, Double, Duration, Dyn, Int, List, Map, Null, String, Timestamp, Type as OfType, Uint,
        };
        let of = &self.facts.types[id];
        let allowed = match verb {
            _ if matches!(of, Dyn) => true,
            Verb::String => matches!(
                of,
                List(_)
                    | Map(_)
                    | Int
                    | Uint
                    | Double
                    | Bool
                    | String
                    | Timestamp
                    | Bytes
                    | Duration
                    | OfType(_)
                    | Null
            ),
            Verb::Decimal | Verb::Octal => matches!(of, Int | Uint),
            Verb::Fixed(_) | Verb::Scientific => matches!(of, Double | String),
            Verb::Binary => matches!(of, Int | Uint | Bool),
            Verb::Hex { .. } => matches!(of, Int | Uint | String | Bytes),
        };
        if !allowed {
            return Err((id, verb.refusal(of.own_name())));
        }
        // Lists and maps in the text are checked with all that they hold.
        let is_literal = matches!(self.ast.expr(id), Expr::List { .. } | Expr::Map(_));
        if verb == Verb::String && is_literal {
            for child in self.ast.children(id) {
                self.fits(child, verb)?;
            }
        }
        Ok(())
    }
}

//! Checks an expression before it is evaluated. In: a program and the types of names. Out: its type and the upper bound of
//! its cost, or an error for unknown names, fields and overloads.

use std::collections::BTreeMap;

use kube_cel::cel::common::ast::operators as op;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, StructExpr,
};

use super::budget::CelError;
use super::program::format_error;
use super::types::REQUEST;
use super::{Program, Type, authorizer, message};

/// The types of names.
pub type Scope<'a> = BTreeMap<&'a str, Type>;

/// The result of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    pub of: Type,
    /// Upper bound of the evaluation's cost.
    pub cost: u64,
}

/// Checks a program; `scope` has the types of the names that it may use.
pub fn check(program: &Program, scope: &Scope<'_>) -> Result<Checked, CelError> {
    let names = Names::Root(scope);
    let mut check = Check { source: program.source(), searched: 0 };
    let (of, cost) = check.expression(program.expression(), &names)?;
    Ok(Checked { of, cost })
}

enum Names<'a> {
    Root(&'a Scope<'a>),
    Inner { outer: &'a Names<'a>, name: &'a str, of: Type },
}

impl Names<'_> {
    fn get(&self, wanted: &str) -> Option<&Type> {
        match self {
            Names::Root(scope) => scope.get(wanted),
            Names::Inner { name, of, .. } if *name == wanted => Some(of),
            Names::Inner { outer, .. } => outer.get(wanted),
        }
    }
}

struct Check<'s> {
    source: &'s str,
    /// Where the search for the next position begins; the parser keeps no positions.
    searched: usize,
}

type Found = Result<(Type, u64), CelError>;

impl Check<'_> {
    fn expression(&mut self, expression: &IdedExpr, names: &Names<'_>) -> Found {
        match &expression.expr {
            Expr::Literal(literal) => Ok((of_literal(literal), 0)),
            Expr::Ident(name) => match names.get(name) {
                Some(of) => Ok((of.clone(), 1)),
                None if TYPES.contains(&name.as_str()) => Ok((Type::Dyn, 1)),
                None => {
                    Err(self.error_at(name, &format!("undeclared reference to '{name}' (in container '')")))
                }
            },
            Expr::Select(select) => self.select(select, names),
            Expr::Call(call) => self.call(call, names),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, names),
            Expr::List(list) => {
                let (mut of, mut cost) = (Type::Dyn, 10_u64);
                for (at, element) in list.elements.iter().enumerate() {
                    let (element, more) = self.expression(element, names)?;
                    of = if at == 0 || of == element { element } else { Type::Dyn };
                    cost = more.saturating_add(cost);
                }
                Ok((Type::List(Box::new(of), list.elements.len() as u64), cost))
            }
            Expr::Map(map) => {
                let mut cost = 30_u64;
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        let (key, value) = (&entry.key, &entry.value);
                        cost = self.expression(key, names)?.1.saturating_add(cost);
                        cost = self.expression(value, names)?.1.saturating_add(cost);
                    }
                }
                Ok((Type::Map(Box::new(Type::Dyn), map.entries.len() as u64), cost))
            }
            Expr::Struct(made) => self.message(made, names),
            Expr::Unspecified => Ok((Type::Dyn, 1)),
        }
    }

    fn message(&mut self, made: &StructExpr, names: &Names<'_>) -> Found {
        let mut cost = 40_u64;
        for entry in &made.entries {
            let EntryExpr::StructField(entry) = &entry.expr else { continue };
            let (found, more) = self.expression(&entry.value, names)?;
            cost = cost.saturating_add(more);
            let given = match found {
                Type::Optional(inner) if entry.optional => *inner,
                other => other,
            };
            match message::field_type(&made.type_name, &entry.field) {
                None => {
                    return Err(self.error_at(&entry.field, &format!("undefined field '{}'", entry.field)));
                }
                Some(wanted) if !given.is_compatible(&wanted) => {
                    let (field, wanted, given) = (&entry.field, wanted.name(), given.name());
                    let what = format!(
                        "expected type of field '{field}' is '{wanted}' but provided type is '{given}'"
                    );
                    return Err(self.error_at(field, &what));
                }
                Some(_) => {}
            }
        }
        Ok((Type::Message(made.type_name.clone()), cost))
    }

    fn select(&mut self, select: &SelectExpr, names: &Names<'_>) -> Found {
        let (operand, cost) = self.expression(&select.operand, names)?;
        let of = self.field(&operand, &select.field)?;
        Ok((if select.test { Type::Bool } else { of }, cost.saturating_add(1)))
    }

    fn field(&mut self, operand: &Type, name: &str) -> Result<Type, CelError> {
        match operand {
            Type::Dyn => Ok(Type::Dyn),
            Type::Map(inner, _) => Ok((**inner).clone()),
            Type::Optional(inner) => Ok(Type::Optional(Box::new(self.field(inner, name)?))),
            Type::Message(of) => {
                let found = if authorizer::is_type(of) {
                    authorizer::field_type(of, name)
                } else {
                    message::field_type(of, name)
                };
                found.ok_or_else(|| self.error_at(name, &format!("undefined field '{name}'")))
            }
            Type::Object(fields) => match fields.iter().find(|(field, _)| field == name) {
                Some((_, of)) => Ok(of.clone()),
                None => Err(self.error_at(name, &format!("undefined field '{name}'"))),
            },
            other => {
                let what = format!("type '{}' does not support field selection", other.name());
                Err(self.error_at(name, &what))
            }
        }
    }

    fn call(&mut self, call: &CallExpr, names: &Names<'_>) -> Found {
        let name = call.func_name.as_str();
        let on = match &call.target {
            None => None,
            Some(target) => match &target.expr {
                Expr::Ident(space) if names.get(space).is_none() => {
                    match NAMESPACES.contains(&space.as_str()) {
                        true => None,
                        false => {
                            return Err(self.error_at(
                                space,
                                &format!("undeclared reference to '{space}' (in container '')"),
                            ));
                        }
                    }
                }
                _ => Some(self.expression(target, names)?),
            },
        };
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expression(arg, names)?);
        }
        let inner: u64 = on.iter().chain(&args).map(|(_, cost)| *cost).fold(0, u64::saturating_add);
        let types: Vec<&Type> = on.iter().chain(&args).map(|(of, _)| of).collect();
        if call.target.is_none() && (name.starts_with(['_', '!', '-', '@'])) {
            let (of, cost) = self.operator(name, &types, call)?;
            return Ok((of, inner.saturating_add(cost)));
        }
        let (of, cost) = match types.first() {
            Some(Type::Message(on)) if call.target.is_some() && authorizer::is_type(on) => {
                self.authorizer_call(on, name, &types)?
            }
            _ => function(name, &types),
        };
        Ok((of, inner.saturating_add(cost)))
    }

    /// A function of the authorizer library, whose functions are all known.
    fn authorizer_call(&mut self, on: &str, name: &str, types: &[&Type]) -> Found {
        let args = types.get(1..).unwrap_or_default();
        match authorizer::function(on, name) {
            Some((count, of))
                if args.len() == count
                    && args.iter().all(|arg| arg.is_compatible(&Type::String(REQUEST))) =>
            {
                Ok((of, authorizer::cost(name)))
            }
            _ => {
                let args: Vec<String> = args.iter().map(|of| of.name()).collect();
                let what = format!(
                    "found no matching overload for '{name}' applied to '{on}.({})'",
                    args.join(", ")
                );
                Err(self.error_at(name, &what))
            }
        }
    }

    fn operator(&mut self, name: &str, types: &[&Type], call: &CallExpr) -> Found {
        let known = match (name, types) {
            (op::LOGICAL_AND | op::LOGICAL_OR, [a, b]) => {
                (a.is_compatible(&Type::Bool) && b.is_compatible(&Type::Bool)).then_some((Type::Bool, 1))
            }
            (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, [a]) => {
                a.is_compatible(&Type::Bool).then_some((Type::Bool, 1))
            }
            (op::NEGATE, [a]) => {
                let fits = matches!(a, Type::Dyn | Type::Int | Type::Double | Type::Duration);
                fits.then(|| ((*a).clone(), 1))
            }
            (op::CONDITIONAL, [condition, yes, no]) => {
                let of = if yes == no { (*yes).clone() } else { common_type(yes, no) };
                (condition.is_compatible(&Type::Bool) && yes.is_compatible(no)).then_some((of, 1))
            }
            (op::EQUALS | op::NOT_EQUALS, [a, b]) => {
                a.is_compatible(b).then(|| (Type::Bool, 1 + a.max_size().min(b.max_size()) / 10))
            }
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
                (is_ordered(a) && is_ordered(b) && (a.is_compatible(b) || is_number(a) && is_number(b)))
                    .then(|| (Type::Bool, 1 + a.max_size().min(b.max_size()) / 10))
            }
            (op::ADD, [a, b]) => addition(a, b),
            (op::SUBSTRACT, [a, b]) => match (a, b) {
                (Type::Timestamp, Type::Timestamp) => Some((Type::Duration, 1)),
                (Type::Timestamp, Type::Duration) => Some((Type::Timestamp, 1)),
                (Type::Duration, Type::Duration) => Some((Type::Duration, 1)),
                (a, b) => arithmetic(a, b),
            },
            (op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => arithmetic(a, b),
            (op::IN, [a, b]) => match b {
                Type::Dyn => Some((Type::Bool, REQUEST)),
                Type::List(inner, most) => a.is_compatible(inner).then_some((Type::Bool, 1 + most)),
                Type::Map(..) | Type::Object(_) => Some((Type::Bool, 1)),
                _ => None,
            },
            (op::INDEX | op::OPT_INDEX, [a, at]) => self.indexed(a, at, name == op::OPT_INDEX),
            (op::OPT_SELECT, [a, _]) => {
                let field = match call.args.get(1).map(|arg| &arg.expr) {
                    Some(Expr::Literal(LiteralValue::String(text))) => self.field(a, text.inner())?,
                    _ => Type::Dyn,
                };
                let of = if let Type::Optional(_) = field { field } else { Type::Optional(Box::new(field)) };
                Some((of, 1))
            }
            _ => Some((Type::Dyn, 1)),
        };
        known.ok_or_else(|| {
            let applied: Vec<String> = types.iter().map(|of| of.name()).collect();
            let what =
                format!("found no matching overload for '{name}' applied to '({})'", applied.join(", "));
            self.error_at(name.trim_matches(['_', '@', '[', ']', '?', ':']), &what)
        })
    }

    fn indexed(&self, a: &Type, at: &Type, is_optional: bool) -> Option<(Type, u64)> {
        let of = match a {
            Type::List(inner, _) if at.is_compatible(&Type::Int) => (**inner).clone(),
            Type::Map(inner, _) if at.is_compatible(&Type::String(REQUEST)) => (**inner).clone(),
            Type::Optional(inner) => return self.indexed(inner, at, true),
            Type::Dyn | Type::Object(_) => Type::Dyn,
            _ => return None,
        };
        Some((if is_optional { Type::Optional(Box::new(of)) } else { of }, 1))
    }

    fn comprehension(&mut self, c: &ComprehensionExpr, names: &Names<'_>) -> Found {
        let (range, cost) = self.expression(&c.iter_range, names)?;
        let (first, second, most) = match &range {
            Type::List(inner, most) if c.iter_var2.is_none() => ((**inner).clone(), Type::Dyn, *most),
            Type::List(inner, most) => (Type::Int, (**inner).clone(), *most),
            Type::Map(inner, most) => (Type::String(REQUEST), (**inner).clone(), *most),
            Type::Dyn => (Type::Dyn, Type::Dyn, REQUEST),
            Type::Object(fields) => (Type::String(REQUEST), Type::Dyn, fields.len() as u64),
            other => {
                let what = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.name()
                );
                return Err(self.error_at("", &what));
            }
        };
        let (accu, before) = self.expression(&c.accu_init, names)?;
        let accu = match accu {
            Type::List(..) => Type::List(Box::new(Type::Dyn), most),
            other => other,
        };
        let with_accu = Names::Inner { outer: names, name: &c.accu_var, of: accu.clone() };
        let with_first = Names::Inner { outer: &with_accu, name: &c.iter_var, of: first };
        let name = c.iter_var2.as_deref().unwrap_or("@unused");
        let with_second = Names::Inner { outer: &with_first, name, of: second };
        let condition = self.expression(&c.loop_cond, &with_second)?.1;
        let (step, each) = self.expression(&c.loop_step, &with_second)?;
        let accu = match (&accu, &step) {
            (Type::List(_, most), Type::List(inner, _)) => Type::List(inner.clone(), *most),
            _ => accu,
        };
        let with_result = Names::Inner { outer: names, name: &c.accu_var, of: accu };
        let (of, after) = self.expression(&c.result, &with_result)?;
        // Appending to a list costs by the item, not by the length of the list.
        let growing = matches!(&c.loop_step.expr, Expr::Call(call) if call.func_name == op::ADD);
        let each = if growing { each.saturating_sub(most / 10) } else { each };
        let loops = most.saturating_mul(condition.saturating_add(each).saturating_add(1));
        Ok((of, cost.saturating_add(before).saturating_add(loops).saturating_add(after)))
    }

    fn error_at(&mut self, near: &str, what: &str) -> CelError {
        let at = self.source[self.searched.min(self.source.len())..].find(near).filter(|_| !near.is_empty());
        let at = at.map_or(0, |at| at + self.searched);
        let before = &self.source[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        CelError::Compile(format_error(self.source, (line, column), what))
    }
}

const TYPES: [&str; 12] = [
    "bool",
    "bytes",
    "double",
    "duration",
    "dyn",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "timestamp",
    "uint",
];
const NAMESPACES: [&str; 9] =
    ["base64", "cidr", "format", "ip", "jsonpatch", "math", "optional", "sets", "strings"];

fn of_literal(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(text) => Type::String(text.inner().len() as u64),
        LiteralValue::UInt(_) => Type::Uint,
    }
}

fn is_number(of: &Type) -> bool {
    matches!(of, Type::Dyn | Type::Int | Type::Uint | Type::Double)
}

fn is_ordered(of: &Type) -> bool {
    is_number(of)
        || matches!(of, Type::Bool | Type::String(_) | Type::Bytes | Type::Timestamp | Type::Duration)
}

fn arithmetic(a: &Type, b: &Type) -> Option<(Type, u64)> {
    (is_number(a) && is_number(b) && a.is_compatible(b)).then(|| (common_type(a, b), 1))
}

fn addition(a: &Type, b: &Type) -> Option<(Type, u64)> {
    let most = a.max_size().saturating_add(b.max_size());
    match (a, b) {
        (Type::Dyn, _) | (_, Type::Dyn) => Some((Type::Dyn, 1)),
        (Type::String(_), Type::String(_)) => Some((Type::String(most), 1 + most / 10)),
        (Type::Bytes, Type::Bytes) => Some((Type::Bytes, 1 + most / 10)),
        (Type::List(a, _), Type::List(b, _)) => {
            let inner = if matches!(**a, Type::Dyn) { b } else { a };
            a.is_compatible(b).then(|| (Type::List(inner.clone(), most), 1 + most / 10))
        }
        (Type::Timestamp, Type::Duration) | (Type::Duration, Type::Timestamp) => Some((Type::Timestamp, 1)),
        (Type::Duration, Type::Duration) => Some((Type::Duration, 1)),
        (a, b) => arithmetic(a, b),
    }
}

fn common_type(a: &Type, b: &Type) -> Type {
    match (a, b) {
        (Type::String(a), Type::String(b)) => Type::String(*a.max(b)),
        (Type::List(a, n), Type::List(b, m)) if a.is_compatible(b) => Type::List(a.clone(), *n.max(m)),
        (a, b) if a == b => a.clone(),
        _ => Type::Dyn,
    }
}

/// The result type and cost of a function; `Dyn` for functions that are not listed.
fn function(name: &str, types: &[&Type]) -> (Type, u64) {
    let most = types.first().map_or(1, |of| of.max_size());
    let text = || Type::String(REQUEST.min(most.saturating_mul(2).max(32)));
    match name {
        "size" => (Type::Int, 1),
        "startsWith" | "endsWith" => {
            (Type::Bool, 1 + types.get(1).map_or(1, |of| of.max_size()).min(most) / 10)
        }
        "contains" | "matches" => {
            let part = types.get(1).map_or(1, |of| of.max_size());
            (Type::Bool, (1 + most / 10).saturating_mul(1 + part / 4))
        }
        "find" => {
            (text(), (1 + most / 10).saturating_mul(1 + types.get(1).map_or(1, |of| of.max_size()) / 4))
        }
        "int" | "indexOf" | "lastIndexOf" => (Type::Int, 1 + most / 10),
        "uint" => (Type::Uint, 1),
        "double" => (Type::Double, 1),
        "string" | "lowerAscii" | "upperAscii" | "trim" | "replace" | "substring" | "join" | "charAt"
        | "format" => (text(), 1 + most / 10),
        "split" => (Type::List(Box::new(Type::String(most)), most), 1 + most / 10),
        "bool" | "isSorted" | "isURL" | "isIP" | "isCIDR" | "isQuantity" | "isSemver" | "hasValue" => {
            (Type::Bool, 1 + most / 10)
        }
        "timestamp" => (Type::Timestamp, 1),
        "duration" => (Type::Duration, 1),
        "bytes" => (Type::Bytes, 1 + most / 10),
        "orValue" => match types {
            [Type::Optional(inner), ..] => ((**inner).clone(), 1),
            _ => (Type::Dyn, 1),
        },
        "getFullYear" | "getMonth" | "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear"
        | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => (Type::Int, 1),
        _ => (Type::Dyn, 1 + most / 10),
    }
}

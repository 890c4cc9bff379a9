//! Evaluates expressions. Each step is charged to the budget before it runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::common::ast::operators as op;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, StructExpr,
};
use kube_cel::cel::objects::{Key, Map, OptionalValue};

use super::authorizer::{self, Authorizer};
use super::budget::{Bindings, Budget, CelError};
use super::functions::{self, Target, size, weight};
use super::message::Message;

type Result<T> = std::result::Result<T, CelError>;

pub(super) fn evaluate(expression: &IdedExpr, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<Value> {
    let scope = Scope::Root(bindings);
    Eval { budget }.value(expression, &scope)
}

/// The values of names, the innermost first.
enum Scope<'a> {
    Root(&'a Bindings<'a>),
    Inner { outer: &'a Scope<'a>, name: &'a str, value: &'a Value },
}

impl Scope<'_> {
    fn get(&self, wanted: &str) -> Option<&Value> {
        match self {
            Scope::Root(bindings) => bindings.get(wanted),
            Scope::Inner { name, value, .. } if *name == wanted => Some(value),
            Scope::Inner { outer, .. } => outer.get(wanted),
        }
    }
}

fn failed<T>(why: impl Into<String>) -> Result<T> {
    Err(CelError::Evaluation(why.into()))
}

fn no_overload<T>() -> Result<T> {
    failed("no such overload")
}

struct Eval<'b> {
    budget: &'b mut Budget,
}

impl Eval<'_> {
    fn value(&mut self, expression: &IdedExpr, scope: &Scope<'_>) -> Result<Value> {
        match &expression.expr {
            Expr::Literal(literal) => Ok(of_literal(literal)),
            Expr::Ident(name) => {
                self.budget.charge(1)?;
                match scope.get(name) {
                    Some(value) => Ok(value.clone()),
                    None => failed(format!("undeclared reference to '{name}' (in container '')")),
                }
            }
            Expr::Select(select) => self.select(select, scope),
            Expr::Call(call) => self.call(call, scope),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, scope),
            Expr::List(list) => {
                self.budget.charge(10)?;
                let mut items = Vec::with_capacity(list.elements.len());
                for (at, element) in list.elements.iter().enumerate() {
                    let value = self.value(element, scope)?;
                    match optional(&value).filter(|_| list.optional_indices.contains(&at)) {
                        Some(inner) => items.extend(inner.value().cloned()),
                        None => items.push(value),
                    }
                }
                Ok(Value::List(Arc::new(items)))
            }
            Expr::Map(map) => {
                self.budget.charge(30)?;
                let mut out = HashMap::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return no_overload() };
                    let key = key(&self.value(&entry.key, scope)?)?;
                    let value = self.value(&entry.value, scope)?;
                    match optional(&value).filter(|_| entry.optional) {
                        Some(inner) => out.extend(inner.value().map(|value| (key, value.clone()))),
                        None => drop(out.insert(key, value)),
                    }
                }
                Ok(Value::Map(Map { map: Arc::new(out) }))
            }
            Expr::Struct(made) => self.message(made, scope),
            Expr::Unspecified => no_overload(),
        }
    }

    fn message(&mut self, made: &StructExpr, scope: &Scope<'_>) -> Result<Value> {
        self.budget.charge(40)?;
        let mut fields = BTreeMap::new();
        for entry in &made.entries {
            let EntryExpr::StructField(entry) = &entry.expr else { return no_overload() };
            let value = self.value(&entry.value, scope)?;
            match optional(&value).filter(|_| entry.optional) {
                Some(inner) => fields.extend(inner.value().map(|value| (entry.field.clone(), value.clone()))),
                None => drop(fields.insert(entry.field.clone(), value)),
            }
        }
        Ok(Value::Opaque(Arc::new(Message::new(&made.type_name, fields)?)))
    }

    fn select(&mut self, select: &SelectExpr, scope: &Scope<'_>) -> Result<Value> {
        let operand = self.value(&select.operand, scope)?;
        self.budget.charge(1)?;
        if select.test {
            let found = match optional(&operand) {
                Some(inner) => inner.value().is_some_and(|value| field(value, &select.field).is_ok()),
                None => match &operand {
                    Value::Map(_) | Value::Opaque(_) => field(&operand, &select.field).is_ok(),
                    _ => return no_overload(),
                },
            };
            return Ok(Value::Bool(found));
        }
        match optional(&operand) {
            Some(inner) => Ok(to_optional(inner.value().and_then(|value| field(value, &select.field).ok()))),
            None => field(&operand, &select.field),
        }
    }

    fn call(&mut self, call: &CallExpr, scope: &Scope<'_>) -> Result<Value> {
        match (call.func_name.as_str(), call.args.as_slice(), &call.target) {
            (op::LOGICAL_AND, [a, b], None) => self.logical(a, b, false, scope),
            (op::LOGICAL_OR, [a, b], None) => self.logical(a, b, true, scope),
            (op::CONDITIONAL, [condition, yes, no], None) => {
                self.budget.charge(1)?;
                match self.value(condition, scope)? {
                    Value::Bool(true) => self.value(yes, scope),
                    Value::Bool(false) => self.value(no, scope),
                    _ => no_overload(),
                }
            }
            (op::NOT_STRICTLY_FALSE, [a], None) => match self.value(a, scope) {
                Err(CelError::Budget) => Err(CelError::Budget),
                Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                _ => Ok(Value::Bool(true)),
            },
            (op::OPT_SELECT, [operand, name], None) => {
                let (operand, name) = (self.value(operand, scope)?, self.value(name, scope)?);
                self.index(&operand, &name, true)
            }
            (op::OPT_INDEX, [operand, at], None) => {
                let (operand, at) = (self.value(operand, scope)?, self.value(at, scope)?);
                self.index(&operand, &at, true)
            }
            (op::INDEX, [operand, at], None) => {
                let (operand, at) = (self.value(operand, scope)?, self.value(at, scope)?);
                self.index(&operand, &at, false)
            }
            (name, [a], None) if matches!(name, op::LOGICAL_NOT | op::NEGATE) => {
                let value = self.value(a, scope)?;
                self.budget.charge(1)?;
                unary(name, value)
            }
            (name, [a, b], None) if name.starts_with('_') || name == op::IN => {
                let (a, b) = (self.value(a, scope)?, self.value(b, scope)?);
                self.binary(name, a, b)
            }
            _ => self.function(call, scope),
        }
    }

    /// `&&` and `||`: one deciding side is enough, even if the other fails.
    fn logical(&mut self, a: &IdedExpr, b: &IdedExpr, decides: bool, scope: &Scope<'_>) -> Result<Value> {
        self.budget.charge(1)?;
        let first = match self.value(a, scope) {
            Err(CelError::Budget) => return Err(CelError::Budget),
            Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
            Ok(Value::Bool(_)) => None,
            Ok(_) => Some(CelError::Evaluation("no such overload".to_owned())),
            Err(error) => Some(error),
        };
        match (self.value(b, scope), first) {
            (Ok(Value::Bool(value)), _) if value == decides => Ok(Value::Bool(decides)),
            (Err(CelError::Budget), _) => Err(CelError::Budget),
            (_, Some(error)) => Err(error),
            (Ok(Value::Bool(value)), None) => Ok(Value::Bool(value)),
            (Ok(_), None) => no_overload(),
            (Err(error), None) => Err(error),
        }
    }

    fn index(&mut self, operand: &Value, at: &Value, is_optional: bool) -> Result<Value> {
        self.budget.charge(1)?;
        let through = optional(operand);
        let found = match through {
            None => item(operand, at),
            Some(inner) => match inner.value() {
                Some(value) => item(value, at),
                None => return Ok(to_optional(None)),
            },
        };
        match found {
            found if !is_optional && through.is_none() => found,
            found => Ok(to_optional(found.ok())),
        }
    }

    fn binary(&mut self, name: &str, a: Value, b: Value) -> Result<Value> {
        let cost = match name {
            op::ADD => 1 + size(&a).saturating_add(size(&b)) / 10,
            op::EQUALS | op::NOT_EQUALS | op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
                1 + weight(&a).min(weight(&b)) / 10
            }
            op::IN => match &b {
                Value::List(items) => 1 + items.len() as u64 * (1 + weight(&a) / 10),
                _ => 1,
            },
            _ => 1,
        };
        self.budget.charge(cost)?;
        let ordered = |test: fn(std::cmp::Ordering) -> bool| match (a.partial_cmp(&b), &a, &b) {
            (Some(order), ..) => Ok(Value::Bool(test(order))),
            (None, Value::Float(_), Value::Float(_)) => Ok(Value::Bool(false)),
            _ => no_overload(),
        };
        match name {
            op::EQUALS => Ok(Value::Bool(a == b)),
            op::NOT_EQUALS => Ok(Value::Bool(a != b)),
            op::LESS => ordered(std::cmp::Ordering::is_lt),
            op::LESS_EQUALS => ordered(std::cmp::Ordering::is_le),
            op::GREATER => ordered(std::cmp::Ordering::is_gt),
            op::GREATER_EQUALS => ordered(std::cmp::Ordering::is_ge),
            op::IN => match &b {
                Value::List(items) => Ok(Value::Bool(items.contains(&a))),
                Value::Map(map) => Ok(Value::Bool(key(&a).is_ok_and(|key| map.map.contains_key(&key)))),
                _ => no_overload(),
            },
            op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO => arithmetic(name, a, b),
            _ => no_overload(),
        }
    }

    fn function(&mut self, call: &CallExpr, scope: &Scope<'_>) -> Result<Value> {
        let target = match &call.target {
            None => None,
            // `math.greatest` is a function of a namespace.
            Some(target) => match &target.expr {
                Expr::Ident(name) if scope.get(name).is_none() => Some(Target::Namespace(name.clone())),
                _ => Some(Target::Value(self.value(target, scope)?)),
            },
        };
        let args: Vec<Value> = call.args.iter().map(|arg| self.value(arg, scope)).collect::<Result<_>>()?;
        let on = match &target {
            Some(Target::Value(value)) => Some(value),
            _ => None,
        };
        if let Some(authorizer) = on.and_then(Authorizer::of) {
            self.budget.charge(authorizer::cost(&call.func_name))?;
            return authorizer.call(&call.func_name, &args);
        }
        if let ("dyn", [_], None) = (call.func_name.as_str(), args.as_slice(), &target) {
            self.budget.charge(1)?;
            return args.into_iter().next().map_or_else(no_overload, Ok);
        }
        if let ("size", Some(value)) = (call.func_name.as_str(), on.or(args.first())) {
            self.budget.charge(1)?;
            return length(value);
        }
        self.budget.charge(functions::cost(&call.func_name, on, &args))?;
        let result = functions::call(target, &call.func_name, args)?;
        self.budget.charge(weight(&result) / 10)?;
        Ok(result)
    }

    fn comprehension(&mut self, c: &ComprehensionExpr, scope: &Scope<'_>) -> Result<Value> {
        let range = self.value(&c.iter_range, scope)?;
        let pairs = pairs(&range)?;
        let mut accu = self.value(&c.accu_init, scope)?;
        self.budget.charge(1 + pairs.len() as u64)?;
        for (first, second) in &pairs {
            let with_accu = Scope::Inner { outer: scope, name: &c.accu_var, value: &accu };
            if self.value(&c.loop_cond, &with_accu)? == Value::Bool(false) {
                break;
            }
            let (one, two) = match &c.iter_var2 {
                Some(_) => (first, second.as_ref()),
                None => (second.as_ref().filter(|_| matches!(range, Value::List(_))).unwrap_or(first), None),
            };
            let with_one = Scope::Inner { outer: &with_accu, name: &c.iter_var, value: one };
            let name = c.iter_var2.as_deref().unwrap_or("@unused");
            let with_two = Scope::Inner { outer: &with_one, name, value: two.unwrap_or(one) };
            match self.appended(&c.loop_step, &c.accu_var, &with_two)? {
                Some(more) => append(&mut accu, more)?,
                None => accu = self.value(&c.loop_step, &with_two)?,
            }
        }
        let with_accu = Scope::Inner { outer: scope, name: &c.accu_var, value: &accu };
        self.value(&c.result, &with_accu)
    }

    /// The items that a step appends to the accumulated list, if it does only that. Avoids copying the list each step.
    fn appended(&mut self, step: &IdedExpr, accu: &str, scope: &Scope<'_>) -> Result<Option<Vec<Value>>> {
        let is_accu = |expression: &IdedExpr| matches!(&expression.expr, Expr::Ident(name) if name == accu);
        let is_append = |expression: &IdedExpr| match &expression.expr {
            Expr::Call(call) => {
                call.func_name == op::ADD
                    && matches!(call.args.as_slice(), [list, more] if is_accu(list) && matches!(more.expr, Expr::List(_)))
            }
            _ => false,
        };
        let Expr::Call(call) = &step.expr else { return Ok(None) };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (op::ADD, [_, more]) if is_append(step) => {
                self.budget.charge(1)?;
                match self.value(more, scope)? {
                    Value::List(items) => Ok(Some(Arc::unwrap_or_clone(items))),
                    _ => no_overload(),
                }
            }
            (op::CONDITIONAL, [condition, yes, no]) if is_accu(no) && is_append(yes) => {
                self.budget.charge(1)?;
                match self.value(condition, scope)? {
                    Value::Bool(false) => Ok(Some(Vec::new())),
                    Value::Bool(true) => self.appended(yes, accu, scope),
                    _ => no_overload(),
                }
            }
            _ => Ok(None),
        }
    }
}

fn append(accu: &mut Value, more: Vec<Value>) -> Result<()> {
    match accu {
        Value::List(items) => Arc::make_mut(items).extend(more),
        _ => return no_overload(),
    }
    Ok(())
}

/// Index and item of a list, key and value of a map.
fn pairs(range: &Value) -> Result<Vec<(Value, Option<Value>)>> {
    match range {
        Value::List(items) => {
            let numbered = items.iter().zip(0_i64..);
            Ok(numbered.map(|(item, at)| (Value::Int(at), Some(item.clone()))).collect())
        }
        Value::Map(map) => {
            let mut pairs: Vec<(Value, Option<Value>)> =
                map.map.iter().map(|(key, value)| (Value::from(key), Some(value.clone()))).collect();
            // Maps have no order; sorting makes the result reproducible.
            pairs.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
            Ok(pairs)
        }
        _ => no_overload(),
    }
}

fn of_literal(literal: &LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(Arc::new(value.inner().to_vec())),
        LiteralValue::Double(value) => Value::Float(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::String(Arc::new(value.inner().to_owned())),
        LiteralValue::UInt(value) => Value::UInt(*value.inner()),
    }
}

fn key(value: &Value) -> Result<Key> {
    match value {
        Value::String(text) => Ok(Key::String(text.clone())),
        Value::Int(int) => Ok(Key::Int(*int)),
        Value::UInt(uint) => Ok(Key::Uint(*uint)),
        Value::Bool(bool) => Ok(Key::Bool(*bool)),
        _ => failed("unsupported key type"),
    }
}

fn field(value: &Value, name: &str) -> Result<Value> {
    match value {
        Value::Map(map) => match map.map.get(&Key::String(Arc::new(name.to_owned()))) {
            Some(found) => Ok(found.clone()),
            None => failed(format!("no such key: {name}")),
        },
        value => {
            let found = match (Message::of(value), Authorizer::of(value)) {
                (Some(message), _) => message.get(name),
                (None, Some(authorizer)) => authorizer.field(name),
                (None, None) => return no_overload(),
            };
            found.map_or_else(|| failed(format!("no such key: {name}")), Ok)
        }
    }
}

fn item(value: &Value, at: &Value) -> Result<Value> {
    match (value, at) {
        (Value::List(items), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| items.get(at));
            found.cloned().map_or_else(|| failed(format!("index out of bounds: {at}")), Ok)
        }
        (Value::Map(map), at) => {
            let shown = match at {
                Value::String(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            map.map.get(&key(at)?).cloned().map_or_else(|| failed(format!("no such key: {shown}")), Ok)
        }
        _ => no_overload(),
    }
}

fn length(value: &Value) -> Result<Value> {
    let length = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        Value::Map(map) => map.map.len(),
        _ => return no_overload(),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn unary(name: &str, value: Value) -> Result<Value> {
    match (name, value) {
        (op::LOGICAL_NOT, Value::Bool(value)) => Ok(Value::Bool(!value)),
        (op::NEGATE, Value::Int(value)) => {
            value.checked_neg().map(Value::Int).map_or_else(|| failed("integer overflow"), Ok)
        }
        (op::NEGATE, Value::Float(value)) => Ok(Value::Float(-value)),
        (op::NEGATE, Value::Duration(value)) => Ok(Value::Duration(-value)),
        _ => no_overload(),
    }
}

fn arithmetic(name: &str, a: Value, b: Value) -> Result<Value> {
    let (kind_a, kind_b) = (std::mem::discriminant(&a), std::mem::discriminant(&b));
    let times = matches!(
        (&a, &b),
        (Value::Timestamp(_) | Value::Duration(_), Value::Timestamp(_) | Value::Duration(_))
    );
    if kind_a != kind_b && !times {
        return no_overload();
    }
    match (name, &a, &b) {
        (op::DIVIDE, Value::Int(_), Value::Int(0)) | (op::DIVIDE, Value::UInt(_), Value::UInt(0)) => {
            return failed("division by zero");
        }
        (op::MODULO, Value::Int(_), Value::Int(0)) | (op::MODULO, Value::UInt(_), Value::UInt(0)) => {
            return failed("modulus by zero");
        }
        (op::DIVIDE, Value::Float(a), Value::Float(b)) => return Ok(Value::Float(a / b)),
        _ => {}
    }
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match name {
        op::ADD => a + b,
        op::SUBSTRACT => a - b,
        op::MULTIPLY => a * b,
        op::DIVIDE => a / b,
        _ => a % b,
    }));
    match result {
        Ok(value) => value.map_err(|error| match functions::of_execution(error, name) {
            CelError::Evaluation(why) if why.starts_with("Unsupported binary operator") => {
                CelError::Evaluation("no such overload".to_owned())
            }
            error => error,
        }),
        Err(_) => failed("integer overflow"),
    }
}

fn optional(value: &Value) -> Option<&OptionalValue> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<OptionalValue>(),
        _ => None,
    }
}

/// `optional.of` or `optional.none`.
pub(crate) fn to_optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(match value {
        Some(value) => OptionalValue::of(value),
        None => OptionalValue::none(),
    }))
}

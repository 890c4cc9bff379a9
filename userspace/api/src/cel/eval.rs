//! Evaluates expressions. Each step is charged to the budget as upstream's cost tracker charges it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::budget::{Budget, CelError};
use super::cost::{self, LIST, MAP, MESSAGE, SELECT};
use super::functions::Overload;
use super::library::{MAX_ITEMS, is_index_error, item};
use super::program::Program;
use super::syntax::{Entry, Expr, Field, Fold, Id, op};
use super::values::{Bindings, Key, List, Map, Message, Value, failed, no_overload};

type Result<T> = std::result::Result<T, CelError>;

/// Bytes of texts and lists that one evaluation may make.
const MAX_MADE_BYTES: usize = 128 << 20;

/// Evaluates a program and charges its cost to the budget.
pub fn evaluate<'a>(program: &Program, bindings: &Bindings<'a>, budget: &mut Budget) -> Result<Value<'a>> {
    let mut eval = Eval { program, bindings, budget, locals: Vec::new(), made_bytes: 0 };
    eval.value(program.ast.root, false)
}

/// A variable of a fold. The value may be an error: logic absorbs it where the other operand decides.
struct Local<'p, 'a> {
    name: &'p str,
    value: Result<Value<'a>>,
}

struct Eval<'p, 'b, 'a> {
    program: &'p Program,
    bindings: &'b Bindings<'a>,
    budget: &'b mut Budget,
    locals: Vec<Local<'p, 'a>>,
    made_bytes: usize,
}

impl<'p, 'a> Eval<'p, '_, 'a> {
    fn expr(&self, id: Id) -> &'p Expr {
        self.program.ast.expr(id)
    }

    /// The value of a node. `free` leaves out the cost of the name that a path begins with: upstream's tracker does not
    /// observe it where a path is an index or a branch.
    fn value(&mut self, id: Id, free: bool) -> Result<Value<'a>> {
        if let Some(constant) = self.program.constants.get(&id) {
            return Ok(constant.clone());
        }
        match self.expr(id) {
            Expr::Literal(_) => no_overload(),
            Expr::Ident(name) => self.ident(name, free),
            Expr::Select { operand, field, test: true } => {
                let operand = self.value(*operand, false)?;
                has(&operand, field)
            }
            Expr::Select { operand, field, .. } => {
                let operand = self.operand(*operand, free)?;
                self.select(&operand, field)
            }
            Expr::Call { function, target, args } => self.call(id, function, *target, args, free),
            Expr::List { items, optional } => self.list(items, optional),
            Expr::Map(entries) => self.map(entries),
            Expr::Message { name, fields } => self.message(name, fields),
            Expr::Fold(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, name: &str, free: bool) -> Result<Value<'a>> {
        if !free {
            self.budget.charge(SELECT)?;
        }
        if let Some(local) = self.locals.iter().rev().find(|local| local.name == name) {
            return local.value.clone();
        }
        match self.bindings.get(name) {
            Some(value) => Ok(value.clone()),
            None => failed(format!("no such attribute(s): {name}")),
        }
    }

    /// Whether a node is a path from a name, as upstream plans it.
    fn is_path(&self, id: Id) -> bool {
        match self.expr(id) {
            _ if self.program.constants.contains_key(&id) => false,
            Expr::Ident(_) | Expr::Select { .. } => true,
            Expr::Call { function, .. } => {
                matches!(&**function, op::INDEX | op::OPTIONAL_INDEX | op::OPTIONAL_SELECT | op::CONDITIONAL)
            }
            _ => false,
        }
    }

    /// The operand of a selection. A path that begins with no name costs one more.
    fn operand(&mut self, id: Id, free: bool) -> Result<Value<'a>> {
        if self.is_path(id) {
            return self.value(id, free);
        }
        let value = self.value(id, false)?;
        if !free {
            self.budget.charge(SELECT)?;
        }
        Ok(value)
    }

    fn select(&mut self, operand: &Value<'a>, field: &str) -> Result<Value<'a>> {
        let name = Value::text(field);
        match operand {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.present(inner, &name),
            operand => {
                self.budget.charge(SELECT)?;
                item(operand, &name)
            }
        }
    }

    /// The optional value of a field or item; only one that is there has a cost.
    fn present(&mut self, operand: &Value<'a>, at: &Value<'a>) -> Result<Value<'a>> {
        match item(operand, at) {
            Ok(found) => {
                self.budget.charge(SELECT)?;
                Ok(Value::some(found))
            }
            Err(error) if is_index_error(&error) => Ok(Value::Optional(None)),
            Err(error) => Err(error),
        }
    }

    fn call(
        &mut self,
        id: Id,
        function: &str,
        target: Option<Id>,
        args: &'p [Id],
        free: bool,
    ) -> Result<Value<'a>> {
        match (function, target, args) {
            (op::AND, None, [left, right]) => self.logical(*left, *right, false),
            (op::OR, None, [left, right]) => self.logical(*left, *right, true),
            (op::CONDITIONAL, None, [condition, yes, no]) => {
                let branch = match self.value(*condition, false)? {
                    Value::Bool(true) => *yes,
                    Value::Bool(false) => *no,
                    _ => return no_overload(),
                };
                let is_path = self.is_path(branch);
                self.value(branch, is_path)
            }
            (op::NOT_STRICTLY_FALSE, None, [arg]) => {
                let value = self.value(*arg, false);
                self.budget.charge(1)?;
                match value {
                    Err(CelError::Budget) => Err(CelError::Budget),
                    Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            (op::OPTIONAL_SELECT | op::OPTIONAL_INDEX, None, [operand, at]) => {
                self.index(*operand, *at, free, true)
            }
            (op::INDEX, None, [operand, at]) => self.index(*operand, *at, free, false),
            ("or", Some(target), [other]) => match self.value(target, false)? {
                Value::Optional(None) => self.value(*other, false),
                value => Ok(value),
            },
            ("orValue", Some(target), [other]) => match self.value(target, false)? {
                Value::Optional(None) => self.value(*other, false),
                Value::Optional(Some(value)) => Ok((*value).clone()),
                _ => no_overload(),
            },
            _ => self.function(id, function, target, args),
        }
    }

    fn index(&mut self, operand: Id, at: Id, free: bool, optional: bool) -> Result<Value<'a>> {
        let operand = self.operand(operand, free)?;
        let is_path = self.is_path(at);
        let at = self.value(at, is_path)?;
        match &operand {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.present(inner, &at),
            operand if optional => self.present(operand, &at),
            operand => {
                self.budget.charge(SELECT)?;
                item(operand, &at)
            }
        }
    }

    /// `&&` and `||`: one deciding operand is enough, even if the other fails.
    fn logical(&mut self, left: Id, right: Id, decides: bool) -> Result<Value<'a>> {
        let first = match self.value(left, false) {
            Err(CelError::Budget) => return Err(CelError::Budget),
            Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
            Ok(Value::Bool(_)) => None,
            Ok(_) => Some(CelError::Evaluation("no such overload".to_owned())),
            Err(error) => Some(error),
        };
        match (self.value(right, false), first) {
            (Ok(Value::Bool(value)), _) if value == decides => Ok(Value::Bool(decides)),
            (Err(CelError::Budget), _) => Err(CelError::Budget),
            (_, Some(error)) | (Err(error), None) => Err(error),
            (Ok(Value::Bool(value)), None) => Ok(Value::Bool(value)),
            (Ok(_), None) => no_overload(),
        }
    }

    fn function(&mut self, id: Id, function: &str, target: Option<Id>, args: &'p [Id]) -> Result<Value<'a>> {
        let (mut values, mut error) = (Vec::with_capacity(args.len() + 1), None);
        for arg in target.iter().chain(args) {
            match self.value(*arg, false) {
                Ok(value) => values.push(value),
                Err(CelError::Budget) => return Err(CelError::Budget),
                // The other arguments are evaluated, too.
                Err(why) => {
                    values.push(Value::Null);
                    error = error.or(Some(why));
                }
            }
        }
        let overloads = self.program.overloads.get(id).map_or(&[][..], Vec::as_slice);
        let chosen = overloads.iter().find(|overload| overload.accepts(&values)).copied();
        if let Some(error) = error {
            let cost = |overload: &&Overload| cost::charge(overload, overloads.len() == 1, &values, None);
            self.budget.charge(overloads.first().map_or(1, cost))?;
            return Err(error);
        }
        let Some(overload) = chosen else {
            self.budget.charge(1)?;
            return no_such_overload(function, &values);
        };
        self.perform(id, overload, overloads.len() == 1, &values)
    }

    /// The cost is charged before the call wherever it does not depend on the result.
    fn perform(
        &mut self,
        id: Id,
        overload: &Overload,
        resolved: bool,
        values: &[Value<'a>],
    ) -> Result<Value<'a>> {
        if self.program.free_calls.contains(&id) {
            return overload.call.map_or_else(no_overload, |call| call(values));
        }
        let by_result = matches!(overload.function, "join" | "slice" | "lists.range" | "reverse");
        if !by_result {
            self.budget.charge(cost::charge(overload, resolved, values, None))?;
        }
        let result = overload.call.map_or_else(no_overload, |call| call(values));
        if by_result {
            self.budget.charge(cost::charge(overload, resolved, values, result.as_ref().ok()))?;
        }
        self.count_made(&result)?;
        result
    }

    /// Counts the memory of what calls make: their cost does not depend on it where types are known only now.
    fn count_made(&mut self, result: &Result<Value<'a>>) -> Result<()> {
        self.made_bytes = self.made_bytes.saturating_add(match result {
            Ok(Value::String(text)) => text.len(),
            Ok(Value::Bytes(bytes)) => bytes.len(),
            Ok(Value::List(List::Owned(items))) => items.len() * size_of::<Value<'_>>(),
            _ => 0,
        });
        if self.made_bytes > MAX_MADE_BYTES { Err(CelError::Budget) } else { Ok(()) }
    }

    fn list(&mut self, items: &'p [Id], optional: &[bool]) -> Result<Value<'a>> {
        let mut out = Vec::with_capacity(items.len());
        let mut failed = None;
        for (item, optional) in items.iter().zip(optional) {
            match self.value(*item, false) {
                Ok(Value::Optional(inner)) if *optional => out.extend(inner.map(Arc::unwrap_or_clone)),
                Ok(value) => out.push(value),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // A list that fails has its cost, too.
        self.budget.charge(LIST)?;
        failed.map_or_else(|| Ok(Value::list(out)), Err)
    }

    fn map(&mut self, entries: &'p [Entry]) -> Result<Value<'a>> {
        let mut out = BTreeMap::new();
        for entry in entries {
            let key = Key::of(&self.value(entry.key, false)?)?;
            match self.value(entry.value, false)? {
                Value::Optional(inner) if entry.optional => {
                    out.extend(inner.map(|value| (key, Arc::unwrap_or_clone(value))));
                }
                value => drop(out.insert(key, value)),
            }
        }
        self.budget.charge(MAP)?;
        Ok(Value::map(out))
    }

    fn message(&mut self, name: &Arc<str>, fields: &'p [Field]) -> Result<Value<'a>> {
        let mut out = BTreeMap::new();
        for field in fields {
            match self.value(field.value, false)? {
                Value::Optional(inner) if field.optional => {
                    out.extend(inner.map(|value| (field.name.to_string(), Arc::unwrap_or_clone(value))));
                }
                value => drop(out.insert(field.name.to_string(), value)),
            }
        }
        self.budget.charge(MESSAGE)?;
        Ok(Value::Message(Arc::new(Message::new(name, out)?)))
    }

    fn fold(&mut self, fold: &'p Fold) -> Result<Value<'a>> {
        let range = self.value(fold.range, false)?;
        let init = self.value(fold.init, false);
        let accumulator = self.locals.len();
        self.locals.push(Local { name: &fold.accumulator, value: init });
        let ended = self.iterate(fold, &range, accumulator);
        let result = ended.and_then(|()| self.value(fold.result, false));
        self.locals.truncate(accumulator);
        result
    }

    fn iterate(&mut self, fold: &'p Fold, range: &Value<'a>, accumulator: usize) -> Result<()> {
        match range {
            Value::List(list) => {
                for at in 0..list.len() {
                    let item = list.get(at).unwrap_or_else(no_overload);
                    let index = Value::Int(i64::try_from(at).unwrap_or(i64::MAX));
                    let (first, second) = match fold.second {
                        Some(_) => (Ok(index), Some(item)),
                        None => (item, None),
                    };
                    if !self.turn(fold, first, second, accumulator)? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let key = key.value();
                    let value = fold.second.as_ref().map(|_| map.get(&key).unwrap_or_else(no_overload));
                    if !self.turn(fold, Ok(key), value, accumulator)? {
                        break;
                    }
                }
                Ok(())
            }
            _ => no_overload(),
        }
    }

    /// One item; `false` ends the fold.
    fn turn(
        &mut self,
        fold: &'p Fold,
        first: Result<Value<'a>>,
        second: Option<Result<Value<'a>>>,
        accumulator: usize,
    ) -> Result<bool> {
        if matches!(self.value(fold.condition, false)?, Value::Bool(false)) {
            return Ok(false);
        }
        self.locals.push(Local { name: &fold.first, value: first });
        if let (Some(name), Some(value)) = (&fold.second, second) {
            self.locals.push(Local { name, value });
        }
        let stepped = self.step(fold.step, accumulator);
        self.locals.truncate(accumulator + 1);
        match stepped {
            Ok(()) => Ok(true),
            Err(CelError::Budget) => Err(CelError::Budget),
            Err(error) => {
                self.locals[accumulator].value = Err(error);
                Ok(true)
            }
        }
    }

    fn is_accumulator(&self, id: Id, accumulator: usize) -> bool {
        matches!(self.expr(id), Expr::Ident(name) if **name == *self.locals[accumulator].name)
    }

    /// Computes the next value of the accumulator. What only adds to it changes it where it is, without a copy.
    fn step(&mut self, id: Id, accumulator: usize) -> Result<()> {
        if let Expr::Call { function, target: None, args } = self.expr(id) {
            match (&**function, args.as_slice()) {
                (op::CONDITIONAL, [condition, yes, no]) if self.is_accumulator(*no, accumulator) => {
                    return match self.value(*condition, false)? {
                        Value::Bool(true) => self.step(*yes, accumulator),
                        Value::Bool(false) => Ok(()),
                        _ => no_overload(),
                    };
                }
                (op::ADD, [list, more])
                    if self.is_accumulator(*list, accumulator)
                        && matches!(self.expr(*more), Expr::List { .. })
                        && matches!(&self.locals[accumulator].value, Ok(Value::List(List::Owned(_)))) =>
                {
                    return self.append(*more, accumulator);
                }
                (op::MAP_INSERT, [map, entry @ ..])
                    if self.is_accumulator(*map, accumulator)
                        && matches!(&self.locals[accumulator].value, Ok(Value::Map(Map::Owned(_)))) =>
                {
                    return self.insert(entry, accumulator);
                }
                _ => {}
            }
        }
        let value = self.value(id, false)?;
        self.locals[accumulator].value = Ok(value);
        Ok(())
    }

    fn append(&mut self, more: Id, accumulator: usize) -> Result<()> {
        self.budget.charge(SELECT)?;
        let more = self.value(more, false);
        self.budget.charge(1)?;
        let Value::List(more) = more? else { return no_overload() };
        let more = more.items()?;
        let Ok(Value::List(List::Owned(items))) = &mut self.locals[accumulator].value else {
            return no_overload();
        };
        if items.len() + more.len() > MAX_ITEMS {
            return Err(CelError::Budget);
        }
        Arc::make_mut(items).extend(more);
        Ok(())
    }

    fn insert(&mut self, entry: &'p [Id], accumulator: usize) -> Result<()> {
        self.budget.charge(SELECT)?;
        let mut made = Vec::new();
        match entry {
            [key, value] => {
                let key = Key::of(&self.value(*key, false)?)?;
                made.push((key, self.value(*value, false)?));
            }
            [map] => {
                let Value::Map(map) = self.value(*map, false)? else { return no_overload() };
                for key in map.keys() {
                    let value = map.get(&key.value()).unwrap_or_else(no_overload)?;
                    made.push((key, value));
                }
            }
            _ => return no_overload(),
        }
        self.budget.charge(1)?;
        let Ok(Value::Map(Map::Owned(entries))) = &mut self.locals[accumulator].value else {
            return no_overload();
        };
        let entries = Arc::make_mut(entries);
        for (key, value) in made {
            if entries.contains_key(&key) {
                let shown = match key {
                    Key::String(text) => text.to_string(),
                    Key::Int(int) => int.to_string(),
                    Key::Uint(uint) => uint.to_string(),
                    Key::Bool(bool) => bool.to_string(),
                };
                return failed(format!("insert failed: key {shown} already exists"));
            }
            entries.insert(key, value);
        }
        Ok(())
    }
}

fn has<'a>(operand: &Value<'a>, field: &str) -> Result<Value<'a>> {
    let name = Value::text(field);
    Ok(Value::Bool(match operand {
        Value::Optional(None) => false,
        Value::Optional(Some(inner)) => return has(inner, field),
        Value::Map(map) => match map.get(&name) {
            Some(found) => found.map(|_| true)?,
            None => false,
        },
        Value::Message(message) => message.fields().contains_key(field),
        Value::Library(value) => value.field(field).is_some(),
        _ => return no_overload(),
    }))
}

/// Upstream names the arguments of functions whose overloads it chooses by them.
fn no_such_overload<T>(function: &str, values: &[Value<'_>]) -> Result<T> {
    let plain = function.starts_with(['_', '@', '-', '!'])
        || matches!(function, "contains" | "startsWith" | "endsWith" | "matches");
    match function {
        _ if plain => no_overload(),
        "size" => failed("no such overload: size"),
        function => {
            let types: Vec<&str> = values.iter().map(Value::type_name).collect();
            failed(format!("no such overload: {function}({})", types.join(", ")))
        }
    }
}

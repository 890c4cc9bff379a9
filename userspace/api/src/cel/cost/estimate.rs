//! Estimates the cost of an expression from its types and from the bounds that a schema gives to sizes.

use std::collections::HashMap;
use std::sync::Arc;

use super::functions::{Call, Operand};
use super::range::Range;
use super::{LIST, MAP, MESSAGE, SELECT, functions};
use crate::cel::functions::Overload;
use crate::cel::syntax::{Ast, Expr, Fold, Id, Literal, op};
use crate::cel::types::{Declared, Type};

/// The largest cost of an evaluation; `root` is the type that paths begin at.
pub(in crate::cel) fn estimate(
    ast: &Ast,
    types: &[Type],
    overloads: &[Vec<&'static Overload>],
    root: &Declared,
) -> u64 {
    let mut estimate = Estimate {
        ast,
        types,
        overloads,
        root,
        sizes: HashMap::new(),
        entries: HashMap::new(),
        paths: HashMap::new(),
        locals: Vec::new(),
    };
    estimate.cost(ast.root).max
}

/// What a value is within the declared types.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'d> {
    /// Nothing declared.
    None,
    At(&'d Declared),
    /// Below the declared types.
    Outside,
    /// The key of a declared map, which has no bound of its own.
    Key,
}

#[derive(Clone, Copy)]
enum Step<'s> {
    Items,
    Keys,
    Indices,
    Field(&'s str),
}

/// The sizes of keys and values of a list or map that the expression makes.
#[derive(Clone, Copy)]
pub(super) struct EntrySize {
    is_list: bool,
    key: Range,
    value: Range,
}

impl EntrySize {
    fn union(self, other: EntrySize) -> EntrySize {
        EntrySize {
            is_list: self.is_list,
            key: self.key.union(other.key),
            value: self.value.union(other.value),
        }
    }
}

/// A variable of a fold.
struct Local<'d> {
    name: Arc<str>,
    path: Path<'d>,
    size: Option<Range>,
    entry: Option<EntrySize>,
}

pub(super) struct Estimate<'d> {
    ast: &'d Ast,
    types: &'d [Type],
    overloads: &'d [Vec<&'static Overload>],
    root: &'d Declared,
    sizes: HashMap<Id, Range>,
    entries: HashMap<Id, EntrySize>,
    paths: HashMap<Id, Path<'d>>,
    locals: Vec<Local<'d>>,
}

impl<'d> Estimate<'d> {
    fn of(&self, id: Id) -> &'d Type {
        &self.types[id]
    }

    fn local(&self, name: &str) -> Option<&Local<'d>> {
        self.locals.iter().rev().find(|local| &*local.name == name)
    }

    fn path(&self, id: Id) -> Path<'d> {
        if let Expr::Ident(name) = self.ast.expr(id)
            && let Some(local) = self.local(name)
        {
            return local.path;
        }
        self.paths.get(&id).copied().unwrap_or(Path::None)
    }

    /// The path one step on. As upstream, the first step of a path is not looked at: it names the root.
    fn walk(&self, path: Path<'d>, step: Step<'_>) -> Path<'d> {
        let found = match (path, step) {
            (Path::None, _) => return Path::At(self.root),
            (Path::At(at), Step::Items) => at.element.as_deref(),
            (Path::At(at), Step::Keys) if matches!(at.of, Type::Map(_)) => return Path::Key,
            (Path::At(at), Step::Field(name)) => match &at.of {
                Type::Object(object) => object.fields.get(name),
                Type::Optional(inner) => match &**inner {
                    Type::Object(object) => object.fields.get(name),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        };
        found.map_or(Path::Outside, Path::At)
    }

    /// The path of the items of a list, for functions that read them.
    pub(super) fn items_of(&self, path: Path<'d>) -> Path<'d> {
        match path {
            Path::None => Path::None,
            path => self.walk(path, Step::Items),
        }
    }

    fn cost(&mut self, id: Id) -> Range {
        match self.ast.expr(id) {
            Expr::Literal(_) => Range::fixed(0),
            Expr::Ident(name) => {
                let path = self.local(name).map_or(Path::At(self.root), |local| local.path);
                self.paths.insert(id, path);
                Range::fixed(SELECT)
            }
            Expr::Select { operand, field, test } => {
                let cost = self.cost(*operand);
                if *test {
                    return cost;
                }
                let own = match self.of(*operand) {
                    Type::Map(_) | Type::Object(_) | Type::Library(_) | Type::Message(_) => SELECT,
                    _ => 0,
                };
                let path = self.walk(self.path(*operand), Step::Field(field));
                self.paths.insert(id, path);
                cost.plus(Range::fixed(own))
            }
            Expr::Call { function, target, args } => self.call(id, function, *target, args),
            Expr::List { items, .. } => {
                let mut cost = Range::fixed(LIST);
                let mut value = empty_union(items.is_empty());
                for item in items {
                    cost = self.cost(*item).plus(cost);
                    value = value.union(self.size_or_unknown(*item));
                }
                self.entries.insert(id, EntrySize { is_list: true, key: Range::fixed(1), value });
                cost
            }
            Expr::Map(entries) => {
                let mut cost = Range::fixed(MAP);
                let (mut key, mut value) = (empty_union(entries.is_empty()), empty_union(entries.is_empty()));
                for entry in entries {
                    cost = self.cost(entry.key).plus(cost);
                    cost = self.cost(entry.value).plus(cost);
                    key = key.union(self.size_or_unknown(entry.key));
                    value = value.union(self.size_or_unknown(entry.value));
                }
                self.entries.insert(id, EntrySize { is_list: false, key, value });
                cost
            }
            Expr::Message { fields, .. } => {
                let mut cost = Range::fixed(MESSAGE);
                for field in fields {
                    cost = self.cost(field.value).plus(cost);
                }
                cost
            }
            Expr::Fold(fold) if self.is_binding(fold) => self.binding(id, fold),
            Expr::Fold(fold) => self.fold(id, fold),
        }
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, args: &[Id]) -> Range {
        if let ("dyn", None, [arg]) = (function, target, args) {
            let cost = self.cost(*arg).plus(Range::fixed(1));
            self.copy_sizes(id, *arg);
            return cost;
        }
        let mut costs = Vec::with_capacity(args.len());
        let mut operands = Vec::with_capacity(args.len());
        for arg in args {
            costs.push(self.cost(*arg));
            operands.push(self.operand(*arg));
        }
        let overloads: &'d [&'static Overload] = &self.overloads[id];
        if overloads.is_empty() {
            return Range::fixed(0);
        }
        let mut on_cost = Range::fixed(0);
        let target = target.map(|target| {
            on_cost = self.cost(target);
            self.operand(target)
        });
        let mut all = Range { min: u64::MAX, max: 0 };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let (cost, made) = self.function(id, overload, target.as_ref(), &operands, &costs);
            all = all.union(cost);
            size = match (size, made) {
                (Some(size), Some(made)) => Some(size.union(made)),
                (size, made) => size.or(made),
            };
            if matches!(overload.id, "index_list" | "index_map")
                && let Some(list) = args.first()
            {
                size = self.entry_size(*list).map(|entry| entry.value);
                let path = self.walk(self.path(*list), Step::Items);
                self.paths.insert(id, path);
            }
            if size.is_none() {
                size = self.size(id);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        on_cost.plus(all)
    }

    /// The cost of a call with its arguments, and the size of its result.
    fn function(
        &mut self,
        id: Id,
        overload: &Overload,
        target: Option<&Operand<'d>>,
        args: &[Operand<'d>],
        costs: &[Range],
    ) -> (Range, Option<Range>) {
        let sum = costs.iter().fold(Range::fixed(0), |sum, cost| sum.plus(*cost));
        let call = Call { function: overload.function, overload: overload.id, target, args };
        if let Some((cost, size)) = functions::of_call(self, &call) {
            return (cost.plus(sum), size);
        }
        match (overload.function, args, costs) {
            (op::AND | op::OR, _, [left, right]) => {
                (Range { min: left.min, max: left.max.saturating_add(right.max) }, None)
            }
            (op::CONDITIONAL, [_, yes, no], [condition, yes_cost, no_cost]) => {
                let entries = self.entry_size(yes.id).zip(self.entry_size(no.id));
                if let Some((yes, no)) = entries {
                    self.entries.insert(id, yes.union(no));
                }
                (condition.plus(yes_cost.union(*no_cost)), Some(yes.known_size().union(no.known_size())))
            }
            (op::ADD, [left, right], _) if matches!(overload.id, "add_string" | "add_bytes" | "add_list") => {
                let size = left.known_size().plus(right.known_size());
                if let Some((left, right)) = self.entry_size(left.id).zip(self.entry_size(right.id)) {
                    self.entries.insert(id, left.union(right));
                }
                let own = match overload.id {
                    "add_list" => Range::fixed(1),
                    _ => size.scaled(super::CHARACTER),
                };
                (own.plus(sum), Some(size))
            }
            _ => (Range::fixed(1).plus(sum), None),
        }
    }

    fn operand(&mut self, id: Id) -> Operand<'d> {
        let literal = match self.ast.expr(id) {
            Expr::Literal(literal) => Some(literal),
            _ => None,
        };
        Operand { id, of: self.of(id), path: self.path(id), size: self.size(id), literal }
    }

    fn size_or_unknown(&mut self, id: Id) -> Range {
        self.size(id).unwrap_or(Range::UNKNOWN)
    }

    /// The size of a value: of a literal its own, and otherwise what the schema or the type says.
    fn size(&mut self, id: Id) -> Option<Range> {
        if let Some(size) = self.sizes.get(&id) {
            return Some(*size);
        }
        let own = match self.ast.expr(id) {
            Expr::Literal(Literal::String(text)) => Some(text.chars().count()),
            Expr::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Expr::Literal(_) => Some(1),
            Expr::List { items, .. } => Some(items.len()),
            Expr::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(own) = own {
            return Some(Range::fixed(own as u64));
        }
        if let Some(size) = size_of_path(self.path(id)) {
            self.sizes.insert(id, size);
            return Some(size);
        }
        if self.of(id).is_scalar() {
            return Some(Range::fixed(1));
        }
        match self.ast.expr(id) {
            Expr::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn entry_size(&self, id: Id) -> Option<EntrySize> {
        let local = || match self.ast.expr(id) {
            Expr::Ident(name) => self.local(name).and_then(|local| local.entry),
            _ => None,
        };
        self.entries.get(&id).copied().or_else(local)
    }

    fn copy_sizes(&mut self, to: Id, from: Id) {
        if let Some(size) = self.size(from) {
            self.sizes.insert(to, size);
        }
        if let Some(entry) = self.entry_size(from) {
            self.entries.insert(to, entry);
        }
    }

    /// Whether a fold only binds a value to a name.
    fn is_binding(&self, fold: &Fold) -> bool {
        matches!(self.ast.expr(fold.range), Expr::List { items, .. } if items.is_empty())
            && matches!(self.ast.expr(fold.condition), Expr::Literal(Literal::Bool(false)))
    }

    fn binding(&mut self, id: Id, fold: &Fold) -> Range {
        let cost = self.cost(fold.range).plus(self.cost(fold.init));
        self.push_accumulator(fold);
        let cost = cost.plus(self.cost(fold.result));
        self.locals.pop();
        self.copy_sizes(id, fold.result);
        cost
    }

    fn push_accumulator(&mut self, fold: &Fold) {
        let (path, size) = (self.path(fold.init), self.size(fold.init));
        let entry = self.entry_size(fold.init);
        self.locals.push(Local { name: fold.accumulator.clone(), path, size, entry });
    }

    fn fold(&mut self, id: Id, fold: &Fold) -> Range {
        let cost = self.cost(fold.range).plus(self.cost(fold.init));
        self.push_accumulator(fold);
        let outside = self.locals.len();
        let (path, entry) = (self.path(fold.range), self.entry_size(fold.range));
        let is_list = entry.map_or(matches!(self.of(fold.range), Type::List(_)), |entry| entry.is_list);
        let (key, value) = (entry.map(|entry| entry.key), entry.map(|entry| entry.value));
        let (first, size) = match (&fold.second, is_list) {
            (None, true) => (Step::Items, value),
            (Some(_), true) => (Step::Indices, key),
            (_, false) => (Step::Keys, key),
        };
        self.locals.push(Local { name: fold.first.clone(), path: self.walk(path, first), size, entry: None });
        if let Some(second) = &fold.second {
            let path = self.walk(path, Step::Items);
            self.locals.push(Local { name: second.clone(), path, size: value, entry: None });
        }
        let each = self.cost(fold.condition);
        let each = self.cost(fold.step).plus(each);
        self.locals.truncate(outside);
        let cost = cost.plus(self.cost(fold.result));
        self.locals.pop();
        let count = self.size_or_unknown(fold.range);
        match self.ast.expr(fold.init) {
            Expr::Literal(_) => {
                if let Some(size) = self.size(fold.init) {
                    self.sizes.insert(id, size);
                }
            }
            Expr::List { .. } | Expr::Map(_) => {
                self.sizes.insert(id, count);
                if let Some(entry) = self.entry_size(fold.step) {
                    self.entries.insert(id, entry);
                }
            }
            _ => {}
        }
        cost.plus(count.times(each))
    }
}

/// The size that the schema gives.
pub(super) fn size_of_path(path: Path<'_>) -> Option<Range> {
    match path {
        Path::At(at) => Some(Range { min: 0, max: at.max }),
        Path::Key => Some(Range::fixed(0)),
        Path::None | Path::Outside => None,
    }
}

/// What the union of sizes begins with.
fn empty_union(is_empty: bool) -> Range {
    Range { min: if is_empty { 0 } else { u64::MAX }, max: 0 }
}

//! Checks an expression before it is evaluated. In: a tree and the types of names. Out: the type of each node, and the
//! overloads that each call may use; or errors about unknown names, fields and overloads.

use std::sync::Arc;

use super::functions::Overload;
use super::library::TABLE;
use super::message;
use super::scope::Scope;
use super::syntax::{Ast, Entry, Expr, Field, Fold, Id, Issue, Literal, op};
use super::types::{ObjectType, Type};
use super::unify::{Substitutions, instantiate, more_general};

/// What the check found out about the nodes of a tree.
#[derive(Debug)]
pub(super) struct Facts {
    pub types: Vec<Type>,
    /// The overloads that a call may use at evaluation.
    pub overloads: Vec<Vec<&'static Overload>>,
    /// The nodes that name a type, with its own name.
    pub type_names: Vec<(Id, Arc<str>)>,
}

/// Checks a tree. A name of a type becomes an identifier, and a call of `a.b()` a call of the function `a.b`.
pub(super) fn check(ast: &mut Ast, scope: &Scope<'_>) -> Result<Facts, Vec<Issue>> {
    let count = ast.nodes.len();
    let mut check = Check {
        ast,
        scope,
        locals: Vec::new(),
        types: vec![Type::Error; count],
        overloads: vec![Vec::new(); count],
        type_names: Vec::new(),
        substitutions: Substitutions::default(),
        issues: Vec::new(),
    };
    check.visit(check.ast.root);
    if !check.issues.is_empty() {
        return Err(check.issues);
    }
    let types = check.types.iter().map(|of| check.substitutions.apply(of, true)).collect();
    Ok(Facts { types, overloads: check.overloads, type_names: check.type_names })
}

struct Check<'s> {
    ast: &'s mut Ast,
    scope: &'s Scope<'s>,
    /// Variables of folds, the innermost last.
    locals: Vec<(Arc<str>, Type)>,
    types: Vec<Type>,
    overloads: Vec<Vec<&'static Overload>>,
    type_names: Vec<(Id, Arc<str>)>,
    substitutions: Substitutions,
    issues: Vec<Issue>,
}

impl Check<'_> {
    fn report(&mut self, at: Id, message: String) {
        self.issues.push(Issue::at(self.ast.nodes[at].offset, message));
    }

    fn visit(&mut self, id: Id) {
        let of = match self.ast.expr(id).clone() {
            Expr::Literal(literal) => type_of_literal(&literal),
            Expr::Ident(name) => self.ident(id, &name),
            Expr::Select { operand, field, test } => self.select(id, operand, &field, test),
            Expr::Call { function, target, args } => self.call(id, &function, target, &args),
            Expr::List { items, optional } => self.list(&items, &optional),
            Expr::Map(entries) => self.map(&entries),
            Expr::Message { name, fields } => self.message(id, &name, &fields),
            Expr::Fold(fold) => self.fold(&fold),
        };
        self.types[id] = of;
    }

    fn look_up(&mut self, id: Id, name: &str) -> Option<Type> {
        if let Some((_, of)) = self.locals.iter().rev().find(|(local, _)| &**local == name) {
            return Some(of.clone());
        }
        if let Some(declared) = self.scope.get(name) {
            return Some(declared.of.clone());
        }
        let of = Scope::type_named(name)?;
        self.type_names.push((id, Arc::from(of.own_name())));
        Some(Type::Type(Arc::new(of)))
    }

    fn ident(&mut self, id: Id, name: &str) -> Type {
        self.look_up(id, name).unwrap_or_else(|| {
            self.undeclared(id, name);
            Type::Error
        })
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, test: bool) -> Type {
        if !test
            && let Some(name) = self.ast.qualified_name(id)
            && let Some(of) = self.look_up(id, &name)
        {
            self.ast.nodes[id].expr = Expr::Ident(Arc::from(name));
            return of;
        }
        let of = self.field(id, operand, field, false);
        if test { Type::Bool } else { self.substitutions.apply(&of, false) }
    }

    fn field(&mut self, id: Id, operand: Id, name: &str, optional: bool) -> Type {
        self.visit(operand);
        let of = self.substitutions.apply(&self.types[operand], false);
        let (of, was_optional) = match of {
            Type::Optional(inner) => ((*inner).clone(), true),
            other => (other, false),
        };
        let found = match &of {
            Type::Map(inner) => inner.1.clone(),
            Type::Object(object) => self.object_field(id, object, name),
            Type::Library(_) | Type::Message(_) => match message::field_type(&of, name) {
                Some(found) => found,
                None => self.undefined(id, name),
            },
            Type::Variable(_) => {
                self.substitutions.is_assignable(&Type::Dyn, &of);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(found) } else { found }
    }

    fn object_field(&mut self, id: Id, object: &ObjectType, name: &str) -> Type {
        match object.field(name) {
            Some(declared) => declared.of.clone(),
            None => self.undefined(id, name),
        }
    }

    fn undefined(&mut self, id: Id, name: &str) -> Type {
        self.report(id, format!("undefined field '{name}'"));
        Type::Error
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, args: &[Id]) -> Type {
        if let (op::OPTIONAL_SELECT, [operand, name]) = (function, args) {
            let Expr::Literal(Literal::String(field)) = self.ast.expr(*name).clone() else {
                return Type::Error;
            };
            self.types[*name] = Type::String;
            let of = self.field(id, *operand, &field, true);
            self.overloads[id] = TABLE.get(function).into_iter().flatten().collect();
            return self.substitutions.apply(&of, false);
        }
        for arg in args {
            self.visit(*arg);
        }
        let Some(target) = target else {
            return match self.overloads_of(function) {
                Some(overloads) => self.resolve(id, function, overloads, None, args),
                None => {
                    self.undeclared(id, function);
                    Type::Error
                }
            };
        };
        // `a.b()` is a function `a.b` if there is one, and a method of `a` otherwise.
        if let Some(prefix) = self.ast.qualified_name(target) {
            let name = format!("{prefix}.{function}");
            if let Some(overloads) = self.overloads_of(&name) {
                let (function, args) = (Arc::from(&*name), args.to_vec());
                self.ast.nodes[id].expr = Expr::Call { function, target: None, args: args.clone() };
                return self.resolve(id, &name, overloads, None, &args);
            }
        }
        self.visit(target);
        match self.overloads_of(function) {
            Some(overloads) => self.resolve(id, function, overloads, Some(target), args),
            None => {
                self.undeclared(id, function);
                Type::Error
            }
        }
    }

    fn overloads_of(&self, function: &str) -> Option<&'static [Overload]> {
        let found = TABLE.get(function)?;
        (self.scope.mutation || !found.iter().all(|overload| overload.mutation_only)).then_some(found)
    }

    fn resolve(
        &mut self,
        id: Id,
        function: &str,
        overloads: &'static [Overload],
        target: Option<Id>,
        args: &[Id],
    ) -> Type {
        let types: Vec<Type> = target.iter().chain(args).map(|arg| self.types[*arg].clone()).collect();
        if matches!(function, op::AND | op::OR) {
            return self.logical(id, overloads, args, &types);
        }
        let mut result: Option<Type> = None;
        for overload in overloads {
            if overload.member != target.is_some() || overload.params.len() != types.len() {
                continue;
            }
            let base = (0..overload.variables).map(|_| self.substitutions.fresh()).min().unwrap_or(0);
            let params: Vec<Type> = overload.params.iter().map(|of| instantiate(of, base)).collect();
            if !self.substitutions.are_assignable(types.iter().zip(&params)) {
                continue;
            }
            self.overloads[id].push(overload);
            let of = self.substitutions.apply(&instantiate(&overload.result, base), false);
            result = Some(match result {
                None => of,
                Some(Type::Dyn) => Type::Dyn,
                Some(known) if known == of => known,
                Some(_) => Type::Dyn,
            });
        }
        result.unwrap_or_else(|| {
            let shown: Vec<String> =
                types.iter().map(|of| self.substitutions.apply(of, true).to_string()).collect();
            let signature = match target {
                Some(_) => format!("{}.({})", shown[0], shown[1..].join(", ")),
                None => format!("({})", shown.join(", ")),
            };
            self.report(id, format!("found no matching overload for '{function}' applied to '{signature}'"));
            Type::Error
        })
    }

    fn logical(&mut self, id: Id, overloads: &'static [Overload], args: &[Id], types: &[Type]) -> Type {
        let mut all_are = true;
        for (arg, of) in args.iter().zip(types) {
            if !self.substitutions.is_assignable(of, &Type::Bool) {
                self.report(*arg, format!("expected type 'bool' but found '{of}'"));
                all_are = false;
            }
        }
        self.overloads[id] = overloads.iter().collect();
        if all_are { Type::Bool } else { Type::Error }
    }

    /// The type of an item or entry; an optional one is unwrapped.
    fn unwrapped(&mut self, id: Id, optional: bool) -> Type {
        self.visit(id);
        match self.types[id].clone() {
            Type::Optional(inner) if optional => (*inner).clone(),
            of if optional && !of.is_dyn() => {
                self.report(id, format!("expected type 'optional_type({of})' but found '{of}'"));
                of
            }
            of => of,
        }
    }

    /// The type that has the values of both; values of mixed types are dynamic.
    fn join(&mut self, before: Option<Type>, of: Type) -> Type {
        match before {
            None => of,
            Some(before) if self.substitutions.is_assignable(&before, &of) => more_general(&before, &of),
            Some(_) => Type::Dyn,
        }
    }

    fn list(&mut self, items: &[Id], optional: &[bool]) -> Type {
        let mut of = None;
        for (item, optional) in items.iter().zip(optional) {
            let item = self.unwrapped(*item, *optional);
            of = Some(self.join(of, item));
        }
        Type::list(of.unwrap_or_else(|| Type::Variable(self.substitutions.fresh())))
    }

    fn map(&mut self, entries: &[Entry]) -> Type {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            let of = self.unwrapped(entry.key, false);
            key = Some(self.join(key, of));
            let of = self.unwrapped(entry.value, entry.optional);
            value = Some(self.join(value, of));
        }
        let mut known = |of: Option<Type>| of.unwrap_or_else(|| Type::Variable(self.substitutions.fresh()));
        let key = known(key);
        Type::map(key, known(value))
    }

    fn message(&mut self, id: Id, name: &Arc<str>, fields: &[Field]) -> Type {
        if !self.scope.mutation || !message::is_type(name) {
            self.undeclared(id, name);
            return Type::Error;
        }
        let of = Type::Message(name.clone());
        for field in fields {
            let given = self.unwrapped(field.value, field.optional);
            match message::field_type(&of, &field.name) {
                None => {
                    self.issues.push(Issue::at(field.offset, format!("undefined field '{}'", field.name)));
                }
                Some(wanted) if !self.substitutions.is_assignable(&wanted, &given) => {
                    let name = &field.name;
                    let what = format!(
                        "expected type of field '{name}' is '{wanted}' but provided type is '{given}'"
                    );
                    self.issues.push(Issue::at(field.offset, what));
                }
                Some(_) => {}
            }
        }
        of
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        self.visit(fold.range);
        self.visit(fold.init);
        let range = self.substitutions.apply(&self.types[fold.range], false);
        let accumulated = self.types[fold.init].clone();
        let outside = self.locals.len();
        self.locals.push((fold.accumulator.clone(), accumulated.clone()));
        let (first, second) = match &range {
            Type::List(of) if fold.second.is_some() => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Error),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn | Type::Error | Type::Variable(_) => {
                self.substitutions.is_assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let what = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.range, what);
                (Type::Error, Type::Error)
            }
        };
        let inside = self.locals.len();
        self.locals.push((fold.first.clone(), first));
        self.locals.extend(fold.second.clone().map(|name| (name, second)));
        self.visit(fold.condition);
        self.expect(fold.condition, &Type::Bool);
        self.visit(fold.step);
        self.expect(fold.step, &accumulated);
        self.locals.truncate(inside);
        self.visit(fold.result);
        self.locals.truncate(outside);
        self.substitutions.apply(&self.types[fold.result], false)
    }

    fn expect(&mut self, id: Id, wanted: &Type) {
        let found = self.types[id].clone();
        if !self.substitutions.is_assignable(wanted, &found) {
            self.report(id, format!("expected type '{wanted}' but found '{found}'"));
        }
    }
}

fn type_of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

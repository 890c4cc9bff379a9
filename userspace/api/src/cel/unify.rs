//! Unification of types: whether a type may stand where another is declared, and what type variables become.

use std::sync::Arc;

use super::types::Type;

/// What type variables stand for.
#[derive(Debug, Default)]
pub(super) struct Substitutions {
    bound: Vec<Option<Type>>,
    /// Earlier values of variables, to undo an attempt.
    trail: Vec<(usize, Option<Type>)>,
}

impl Substitutions {
    /// A new variable.
    pub(super) fn fresh(&mut self) -> usize {
        self.bound.push(None);
        self.bound.len() - 1
    }

    fn find(&self, of: &Type) -> Option<&Type> {
        match of {
            Type::Variable(number) => self.bound.get(*number)?.as_ref(),
            _ => None,
        }
    }

    fn bind(&mut self, variable: &Type, to: Type) {
        if let Type::Variable(number) = variable
            && let Some(slot) = self.bound.get_mut(*number)
        {
            self.trail.push((*number, slot.replace(to)));
        }
    }

    /// Whether all types are assignable, pair by pair. Variables keep their values if one is not.
    pub(super) fn are_assignable<'t>(
        &mut self,
        pairs: impl IntoIterator<Item = (&'t Type, &'t Type)>,
    ) -> bool {
        self.trail.clear();
        let all = pairs.into_iter().all(|(a, b)| self.assign(a, b));
        if !all {
            while let Some((number, before)) = self.trail.pop() {
                self.bound[number] = before;
            }
        }
        all
    }

    pub(super) fn is_assignable(&mut self, a: &Type, b: &Type) -> bool {
        self.are_assignable([(a, b)])
    }

    fn assign(&mut self, a: &Type, b: &Type) -> bool {
        if matches!(b, Type::Variable(_)) {
            let (valid, has_value) = self.substitute_for(a, b);
            if valid || has_value {
                return valid;
            }
        }
        if matches!(a, Type::Variable(_)) {
            return self.substitute_for(b, a).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Optional(_)
                    | Type::Object(_)
                    | Type::Library(_)
                    | Type::Message(_)
                    | Type::Duration
                    | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (Type::Map(a), Type::Map(b)) => self.assign(&a.0, &b.0) && self.assign(&a.1, &b.1),
            (a, b) => a == b,
        }
    }

    /// Whether a variable may stand for a type, and whether it already stood for one.
    fn substitute_for(&mut self, of: &Type, variable: &Type) -> (bool, bool) {
        if of == variable {
            return (true, true);
        }
        if let Some(known) = self.find(variable).cloned() {
            if *of == known {
                return (true, true);
            }
            if self.assign(of, &known) {
                let general = if is_less_specific(of, &known) { of.clone() } else { known };
                if self.is_free_of(variable, &general) {
                    self.bind(variable, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.is_free_of(variable, of) {
            self.bind(variable, of.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether a type does not contain the variable.
    fn is_free_of(&self, variable: &Type, within: &Type) -> bool {
        if variable == within {
            return false;
        }
        match within {
            Type::Variable(_) => self.find(within).is_none_or(|known| self.is_free_of(variable, known)),
            Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => self.is_free_of(variable, inner),
            Type::Map(inner) => self.is_free_of(variable, &inner.0) && self.is_free_of(variable, &inner.1),
            _ => true,
        }
    }

    /// The type with all variables replaced that stand for one; the others become `dyn` if asked for.
    pub(super) fn apply(&self, of: &Type, unknown_is_dyn: bool) -> Type {
        if let Some(known) = self.find(of) {
            return self.apply(known, unknown_is_dyn);
        }
        let inner = |of: &Arc<Type>| Arc::new(self.apply(of, unknown_is_dyn));
        match of {
            Type::Variable(_) if unknown_is_dyn => Type::Dyn,
            Type::List(of) => Type::List(inner(of)),
            Type::Optional(of) => Type::Optional(inner(of)),
            Type::Type(of) => Type::Type(inner(of)),
            Type::Map(of) => Type::map(self.apply(&of.0, unknown_is_dyn), self.apply(&of.1, unknown_is_dyn)),
            other => other.clone(),
        }
    }
}

/// The more general of two types that unify.
pub(super) fn more_general(a: &Type, b: &Type) -> Type {
    if is_less_specific(a, b) { a.clone() } else { b.clone() }
}

fn is_less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Variable(_), _) => true,
        (_, Type::Dyn | Type::Variable(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => is_less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => is_less_specific(&a.0, &b.0) && is_less_specific(&a.1, &b.1),
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}

/// A type with its type parameters renamed to variables from `base` on.
pub(super) fn instantiate(of: &Type, base: usize) -> Type {
    match of {
        Type::Variable(number) => Type::Variable(base + number),
        Type::List(inner) => Type::list(instantiate(inner, base)),
        Type::Optional(inner) => Type::optional(instantiate(inner, base)),
        Type::Type(inner) => Type::Type(Arc::new(instantiate(inner, base))),
        Type::Map(inner) => Type::map(instantiate(&inner.0, base), instantiate(&inner.1, base)),
        other => other.clone(),
    }
}

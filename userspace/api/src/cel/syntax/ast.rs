//! The syntax tree of an expression: nodes in one list, each named by its index. Dropping a tree needs no recursion.

use std::sync::Arc;

/// The index of a node.
pub(in crate::cel) type Id = usize;

/// Operators as functions: the names that error messages and the function table use.
pub(in crate::cel) mod op {
    pub(in crate::cel) const CONDITIONAL: &str = "_?_:_";
    pub(in crate::cel) const AND: &str = "_&&_";
    pub(in crate::cel) const OR: &str = "_||_";
    pub(in crate::cel) const NOT: &str = "!_";
    pub(in crate::cel) const NEGATE: &str = "-_";
    pub(in crate::cel) const EQUALS: &str = "_==_";
    pub(in crate::cel) const NOT_EQUALS: &str = "_!=_";
    pub(in crate::cel) const LESS: &str = "_<_";
    pub(in crate::cel) const LESS_EQUALS: &str = "_<=_";
    pub(in crate::cel) const GREATER: &str = "_>_";
    pub(in crate::cel) const GREATER_EQUALS: &str = "_>=_";
    pub(in crate::cel) const ADD: &str = "_+_";
    pub(in crate::cel) const SUBTRACT: &str = "_-_";
    pub(in crate::cel) const MULTIPLY: &str = "_*_";
    pub(in crate::cel) const DIVIDE: &str = "_/_";
    pub(in crate::cel) const MODULO: &str = "_%_";
    pub(in crate::cel) const IN: &str = "@in";
    pub(in crate::cel) const INDEX: &str = "_[_]";
    pub(in crate::cel) const OPTIONAL_INDEX: &str = "_[?_]";
    pub(in crate::cel) const OPTIONAL_SELECT: &str = "_?._";
    pub(in crate::cel) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub(in crate::cel) const MAP_INSERT: &str = "cel.@mapInsert";
    pub(in crate::cel) const SORT_BY_KEYS: &str = "@sortByAssociatedKeys";
}

/// The accumulator of macros; no identifier of a source has this name.
pub(in crate::cel) const ACCUMULATOR: &str = "@result";

#[derive(Clone, Debug, PartialEq)]
pub(in crate::cel) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub(in crate::cel) enum Expr {
    Literal(Literal),
    Ident(Arc<str>),
    Select {
        operand: Id,
        field: Arc<str>,
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Id>,
        args: Vec<Id>,
    },
    /// The items, and which of them are optional (`[?a]`).
    List {
        items: Vec<Id>,
        optional: Vec<bool>,
    },
    Map(Vec<Entry>),
    Message {
        name: Arc<str>,
        fields: Vec<Field>,
    },
    Fold(Box<Fold>),
}

/// An entry of a map.
#[derive(Clone, Debug)]
pub(in crate::cel) struct Entry {
    pub key: Id,
    pub value: Id,
    pub optional: bool,
}

/// A field of a message.
#[derive(Clone, Debug)]
pub(in crate::cel) struct Field {
    pub name: Arc<str>,
    pub value: Id,
    pub optional: bool,
    pub offset: usize,
}

/// A comprehension: what the macros expand to.
#[derive(Clone, Debug)]
pub(in crate::cel) struct Fold {
    pub range: Id,
    pub first: Arc<str>,
    pub second: Option<Arc<str>>,
    pub accumulator: Arc<str>,
    pub init: Id,
    pub condition: Id,
    pub step: Id,
    pub result: Id,
}

/// An expression and its position: the offset in characters.
#[derive(Clone, Debug)]
pub(in crate::cel) struct Node {
    pub expr: Expr,
    pub offset: usize,
}

#[derive(Clone, Debug, Default)]
pub(in crate::cel) struct Ast {
    pub nodes: Vec<Node>,
    pub root: Id,
}

impl Ast {
    pub(in crate::cel) fn expr(&self, id: Id) -> &Expr {
        &self.nodes[id].expr
    }

    pub(in crate::cel) fn add(&mut self, offset: usize, expr: Expr) -> Id {
        self.nodes.push(Node { expr, offset });
        self.nodes.len() - 1
    }

    /// The nodes directly below a node.
    pub(in crate::cel) fn children(&self, id: Id) -> Vec<Id> {
        match self.expr(id) {
            Expr::Literal(_) | Expr::Ident(_) => Vec::new(),
            Expr::Select { operand, .. } => vec![*operand],
            Expr::Call { target, args, .. } => target.iter().chain(args).copied().collect(),
            Expr::List { items, .. } => items.clone(),
            Expr::Map(entries) => entries.iter().flat_map(|entry| [entry.key, entry.value]).collect(),
            Expr::Message { fields, .. } => fields.iter().map(|field| field.value).collect(),
            Expr::Fold(fold) => {
                vec![fold.range, fold.init, fold.condition, fold.step, fold.result]
            }
        }
    }

    /// `a.b.c` as a dotted name; `None` if the node is something else.
    pub(in crate::cel) fn qualified_name(&self, id: Id) -> Option<String> {
        let mut parts = Vec::new();
        let mut at = id;
        loop {
            match self.expr(at) {
                Expr::Ident(name) => {
                    parts.push(&**name);
                    parts.reverse();
                    return Some(parts.join("."));
                }
                Expr::Select { operand, field, test: false } => {
                    parts.push(&**field);
                    at = *operand;
                }
                _ => return None,
            }
        }
    }
}

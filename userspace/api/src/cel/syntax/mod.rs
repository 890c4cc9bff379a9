//! The syntax of expressions. In: a text. Out: a tree of bounded depth and size with macros expanded, or the syntax errors.

mod ast;
mod issue;
mod lexer;
mod literal;
mod macros;
mod parser;

pub(super) use ast::{Ast, Entry, Expr, Field, Fold, Id, Literal, op};
pub(super) use issue::{Issue, render};
pub(super) use parser::parse;

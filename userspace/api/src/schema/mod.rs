//! Schema facts of the built-in types, and checking JSON against them.

mod check;
mod duplicates;
mod facts;

pub use check::SchemaProblem;
pub(crate) use check::{check, check_required, check_type, zeros};
pub use duplicates::duplicates;
pub use facts::{Field, Scalar, Shape, Type, named, of_kind, types};

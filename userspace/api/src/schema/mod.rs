//! Schema facts of the built-in types, and checking JSON against them.

mod check;
mod duplicates;
mod facts;

pub(crate) use check::check_type;
pub use check::{Problem, check, check_required, zeros};
pub use duplicates::duplicates;
pub use facts::{Field, Scalar, Shape, Type, named, of_kind, types};

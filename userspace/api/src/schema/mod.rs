//! Schema facts of the built-in types, and checking JSON against them.

mod check;
pub(crate) mod descriptions;
mod duplicates;
mod facts;
mod required;
mod scalar;
mod time_form;
pub(crate) mod zero;

pub(crate) use check::{MAX_PROBLEMS, check_type, complete_status, shown};
pub use check::{SchemaProblem, check};
pub use duplicates::duplicates;
pub use facts::{Field, Scalar, Shape, Type, Zero, named, of_kind, types};
pub(crate) use required::check_required;
pub use scalar::whole_numbers;

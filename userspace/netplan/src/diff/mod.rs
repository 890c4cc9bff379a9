//! From what the kernel holds to what is wanted, as ordered writes.
//!
//! In: plans and compiled policies, [`kernel::Kernel`]. Out: writes, and [`Problem`]s.

mod backend_set;
pub(crate) mod kernel;
pub(crate) mod policy;
mod problem;
pub(crate) mod service;

pub use problem::{Problem, Subject};

//! The cost model, which is upstream's: an estimate before evaluation, and the charge of each call at evaluation. Both read
//! the same names of overloads as the table of functions.

mod charge;
mod estimate;
mod functions;
mod range;

pub(super) use charge::charge;
pub(super) use estimate::estimate;

/// Cost of reading a name or a field.
pub(super) const SELECT: u64 = 1;
pub(super) const LIST: u64 = 10;
pub(super) const MAP: u64 = 30;
pub(super) const MESSAGE: u64 = 40;
/// Cost of a character that is read.
const CHARACTER: f64 = 0.1;
/// Cost of a character of a regular expression, for each ten characters that it reads.
const REGEX_CHARACTER: f64 = 0.25;
/// Cost of an access check: an evaluation may perform two.
const ACCESS_CHECK: u64 = 350_000;
/// Cost of each requirement of a selector.
const REQUIREMENT: f64 = 50.0;
/// Requirements for each character of a selector.
const REQUIREMENTS_PER_CHARACTER: f64 = 0.5;

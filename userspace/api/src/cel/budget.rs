//! What every part of the evaluation shares: the cost budget, its errors, and the values that names stand for.

use std::collections::BTreeMap;

use kube_cel::cel::Value;

/// Cost units that one evaluation may take (cel.PerCallLimit).
pub const PER_CALL: u64 = 1_000_000;
/// Cost units for all expressions of one object (cel.RuntimeCELCostBudget).
pub const PER_OBJECT: u64 = 10_000_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    /// The expression is none; as `ERROR: <input>:1:3: ...`.
    #[error("{0}")]
    Compile(String),
    #[error("operation cancelled: actual cost limit exceeded")]
    Budget,
    /// `no such key: x`, `no such overload`, `divide by zero`.
    #[error("{0}")]
    Evaluation(String),
}

/// Cost units that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(pub u64);

impl Budget {
    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), CelError> {
        match self.0.checked_sub(cost) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => {
                self.0 = 0;
                Err(CelError::Budget)
            }
        }
    }
}

/// What names stand for.
pub type Bindings<'a> = BTreeMap<&'a str, Value>;

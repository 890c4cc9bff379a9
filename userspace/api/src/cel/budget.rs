//! Data that all parts of the evaluation share: the cost budget and the errors.

/// Cost units that one evaluation may take (cel.PerCallLimit).
pub const PER_CALL: u64 = 1_000_000;
/// Cost units for all expressions of one object (cel.RuntimeCELCostBudget).
pub const PER_OBJECT: u64 = 10_000_000;
/// Cost units for all match conditions of a webhook or policy (cel.RuntimeCELCostBudgetMatchConditions).
pub const PER_CONDITIONS: u64 = 2_500_000;

/// Why an expression has no value, with upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    /// The text is no valid expression: `ERROR: <input>:1:3: ...`.
    #[error("{0}")]
    Compile(String),
    /// A conversion of a constant in the text fails.
    #[error("{0}")]
    Instantiation(String),
    /// The cost budget is spent.
    #[error("operation cancelled: actual cost limit exceeded")]
    Budget,
    /// The evaluation failed: `no such key: x`, `no such overload`, `divide by zero`.
    #[error("{0}")]
    Evaluation(String),
}

/// The remaining cost units.
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

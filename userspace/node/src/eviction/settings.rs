//! When the node evicts pods.

use jiff::SignedDuration;

use super::pressure;
use super::signals::{self, Threshold};

/// When the node runs short.
#[derive(Debug, Clone)]
pub struct EvictionSettings {
    pub thresholds: Vec<Threshold>,
    pub transition: SignedDuration,
}

impl Default for EvictionSettings {
    fn default() -> EvictionSettings {
        EvictionSettings { thresholds: signals::defaults(), transition: pressure::TRANSITION_PERIOD }
    }
}

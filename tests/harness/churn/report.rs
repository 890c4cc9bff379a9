//! What was done, and what broke.

use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub changes: usize,
    pub restarts: usize,
    pub kills: usize,
    /// Requests over standing connections, and over new ones.
    pub requests: usize,
    pub dialled: usize,
    /// Questions to the cluster's DNS, and the longest time until an answer.
    pub questions: usize,
    pub slowest_answer: Duration,
    /// Words after a silence, from either end.
    pub after_silence: usize,
    /// Connections that policy refused.
    pub refused: usize,
    /// Nodes that came wrongly and went.
    pub wrong_nodes: usize,
    pub broken: Vec<String>,
}

//! Whether a node can give pods a network now: what the agent answers to the plugin's STATUS, and what the Node's
//! conditions say.

/// The network's readiness. `NotReady` holds the reason, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkState {
    NotReady(String),
    Ready,
}

//! The CNI protocol (1.1 and back to 0.3.1) and the messages between the plugin `skep-cni` and the node agent.
//!
//! In: a runtime's environment and stdin as values. Out: the JSON that it expects, and the exit code. The agent's side
//! of the messages is [`agent`].

pub mod agent;
mod config;
mod error;
mod network_state;
mod plugin;
mod request;
mod result;
mod version;

pub use config::{AttachmentId, NetConf};
pub use error::{CniError, code};
pub use network_state::NetworkState;
pub use plugin::{Outcome, run};
pub use request::{Command, Environment, Request};
pub use result::{CniResult, Interface, Ip, Route};
pub use version::{SUPPORTED, Version};

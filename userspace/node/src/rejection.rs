//! Why the node does not run a pod: the reason and the message of its status.

use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    pub reason: Cow<'static, str>,
    pub message: String,
}

pub(crate) fn reject(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Rejection {
    Rejection { reason: reason.into(), message: message.into() }
}

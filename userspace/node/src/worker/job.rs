//! What an action works on, and the outcomes that several actions share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::context::NodeContext;
use crate::cri;
use crate::plan::Outcome;

/// What an action works on.
pub(super) struct Job {
    pub(super) context: Arc<NodeContext>,
    pub(super) pod: Arc<Pod>,
    pub(super) uid: String,
    /// Addresses of the newest sandbox; the node's for pods in its network.
    pub(super) ips: Vec<IpAddr>,
    pub(super) sandbox_attempt: u32,
    /// The newest container of each name.
    pub(super) container_ids: BTreeMap<String, String>,
}

pub(super) fn failed(reason: &str, error: impl ToString) -> Outcome {
    Outcome::Failed { reason: reason.to_owned(), message: error.to_string(), image: None }
}

pub(super) fn of_cri(result: Result<(), cri::CriError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => failed(error.call, &error),
    }
}

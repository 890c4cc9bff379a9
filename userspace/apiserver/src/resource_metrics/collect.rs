//! Asks nodes what they use, and remembers the answers for a few seconds. Each node fails alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::summary::NodeUsage;
use crate::dial::Dialer;
use crate::lock::Lock;
use crate::reverse_proxy::{Destination, ForwardError, send};

/// Answers and failures are remembered for so long. Agents sample every ten seconds.
const MAX_AGE: Duration = Duration::from_secs(5);
/// The time that a node has. The first question takes it a second.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that one request asks at a time.
const MAX_ASKED_NODES: usize = 64;
const MAX_SUMMARY_BYTES: usize = 8 << 20;

/// The path at the kubelet.
pub(super) const PATH: &str = "/stats/summary";
pub(super) const QUERY: &str = "only_cpu_and_memory=true";

/// The last answers of nodes.
#[derive(Default)]
pub(crate) struct UsageCache {
    nodes: Lock<HashMap<String, Arc<Slot>>>,
}

/// Of one node: requests wait for the one that asks it.
type Slot = Mutex<Option<Answer>>;

#[derive(Clone)]
struct Answer {
    at: Instant,
    usage: Option<Arc<NodeUsage>>,
}

/// Why a node's usage is not known.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("it did not answer in time")]
    Timeout,
    #[error(transparent)]
    Send(#[from] ForwardError),
    #[error("it answered {0}")]
    Status(http::StatusCode),
    #[error("read its answer: {0}")]
    Read(Box<dyn std::error::Error + Send + Sync>),
    #[error("decode its answer: {0}")]
    Decode(#[from] serde_json::Error),
}

impl UsageCache {
    /// What these nodes use; those that do not answer are left out. `destination` says where a node's kubelet is; `all` is the
    /// number of the cluster's nodes, and `exists` whether there is such a node.
    pub(super) async fn of_nodes(
        &self,
        dialer: &Dialer,
        names: BTreeSet<String>,
        destination: impl Fn(&str) -> Option<Destination>,
        (all, exists): (usize, impl Fn(&str) -> bool),
    ) -> HashMap<String, Arc<NodeUsage>> {
        self.forget(all, exists);
        let destination = &destination;
        let ask = |name: String| async move {
            let usage = self.of_node(dialer, &name, destination).await?;
            Some((name, usage))
        };
        let answers = futures::stream::iter(names).map(ask).buffer_unordered(MAX_ASKED_NODES);
        answers.filter_map(std::future::ready).collect().await
    }

    /// Forgets nodes that are gone.
    fn forget(&self, all: usize, exists: impl Fn(&str) -> bool) {
        let mut nodes = self.nodes.lock();
        if nodes.len() > all {
            nodes.retain(|name, _| exists(name));
        }
    }

    async fn of_node(
        &self,
        dialer: &Dialer,
        name: &str,
        destination: impl Fn(&str) -> Option<Destination>,
    ) -> Option<Arc<NodeUsage>> {
        let slot = self.nodes.lock().entry(name.to_owned()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(answer) = slot.as_ref().filter(|answer| answer.at.elapsed() < MAX_AGE) {
            return answer.usage.clone();
        }
        let to = destination(name)?;
        let collected =
            timeout(NODE_TIMEOUT, collect(dialer, to)).await.unwrap_or(Err(CollectError::Timeout));
        let usage = match collected {
            Ok(usage) => Some(Arc::new(usage)),
            Err(error) => {
                tracing::info!(node = name, %error, "read usage of node failed");
                None
            }
        };
        *slot = Some(Answer { at: Instant::now(), usage: usage.clone() });
        usage
    }
}

async fn collect(dialer: &Dialer, to: Destination) -> Result<NodeUsage, CollectError> {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = to.path_and_query.parse().map_err(|_| ForwardError::Path)?;
    let answer = send(dialer, &to.security, &to.address, request).await?;
    if !answer.status().is_success() {
        return Err(CollectError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_SUMMARY_BYTES).collect().await;
    let bytes: Bytes = body.map_err(CollectError::Read)?.to_bytes();
    Ok(NodeUsage::parse(&bytes)?)
}

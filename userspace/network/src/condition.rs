//! The Node's conditions of the network: NetworkUnavailable keeps pods away; NetworkDegraded names what this node cannot
//! serve while everything else works.
//!
//! In: the network's state and its problems. Out: a patch of the Node's status at each change, repeated until the API
//! server accepts it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::NetworkState;
use crate::problems::Problems;

const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(500);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Runs until `stop` is cancelled or the sender of the state or of the problems is gone.
pub(crate) async fn report(
    client: kube::Client,
    node: String,
    state: watch::Receiver<NetworkState>,
    problems: watch::Receiver<Problems>,
    stop: CancellationToken,
) {
    let nodes: Api<Node> = Api::all(client);
    let both = async {
        tokio::select! {
            () = follow(&nodes, &node, state, unavailable) => {}
            () = follow(&nodes, &node, problems, degraded) => {}
        }
    };
    stop.run_until_cancelled(both).await;
}

/// What a condition says, and what is written with it; its times come when it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) condition: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// An annotation of the Node: its name and value.
    pub(crate) annotation: Option<(&'static str, String)>,
}

fn unavailable(state: &NetworkState) -> Statement {
    let condition = "NetworkUnavailable";
    match state {
        NetworkState::Ready => {
            let message = "services, policy and routes are in the maps".to_owned();
            Statement { condition, holds: false, reason: "SkepIsUp", message, annotation: None }
        }
        NetworkState::NotReady(why) => Statement {
            condition,
            holds: true,
            reason: "SkepIsNotReady",
            message: why.clone(),
            annotation: None,
        },
    }
}

fn degraded(problems: &Problems) -> Statement {
    let condition = "NetworkDegraded";
    match problems.of_node() {
        None => {
            let message = "everything is served as the API says".to_owned();
            Statement { condition, holds: false, reason: "NoProblems", message, annotation: None }
        }
        Some(message) => Statement { condition, holds: true, reason: "Problems", message, annotation: None },
    }
}

/// Writes the condition at each change, until the value's sender is gone.
pub(crate) async fn follow<T>(
    nodes: &Api<Node>,
    node: &str,
    mut value: watch::Receiver<T>,
    state: impl Fn(&T) -> Statement,
) {
    let mut written: Option<Statement> = None;
    let mut since = Timestamp::now();
    loop {
        let now = state(&value.borrow_and_update());
        if written.as_ref() != Some(&now) {
            if written.as_ref().is_none_or(|written| written.holds != now.holds) {
                since = Timestamp::now();
            }
            let status = patch(&now, since, Timestamp::now());
            let mut wait = MIN_RETRY_INTERVAL;
            // The Node may not be registered yet, or the server may be away: only the latest state is repeated.
            loop {
                let patched =
                    nodes.patch_status(node, &PatchParams::default(), &Patch::Strategic(&status)).await;
                let Err(error) = patched else {
                    written = Some(now);
                    break;
                };
                tracing::debug!(node, condition = now.condition, %error, "write condition failed");
                tokio::select! {
                    changed = value.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        value.mark_changed();
                        break;
                    }
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(MAX_RETRY_INTERVAL),
                }
            }
        }
        if value.changed().await.is_err() {
            return;
        }
    }
}

/// Conditions merge by type, so the others stay.
fn patch(statement: &Statement, since: Timestamp, now: Timestamp) -> Value {
    let condition = NodeCondition {
        type_: statement.condition.to_owned(),
        status: if statement.holds { "True" } else { "False" }.to_owned(),
        reason: Some(statement.reason.to_owned()),
        message: Some(statement.message.clone()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(since)),
    };
    let mut patch = json!({"status": {"conditions": [condition]}});
    // A write of the status may change annotations of a Node.
    if let Some((name, value)) = &statement.annotation {
        patch["metadata"] = json!({"annotations": {*name: value}});
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_network_is_not_unavailable() {
        let patch = patch(&unavailable(&NetworkState::Ready), Timestamp::UNIX_EPOCH, Timestamp::now());
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("NetworkUnavailable"), &json!("False"))
        );
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_network_without_problems_is_not_degraded() {
        assert!(!degraded(&Problems::default()).holds);
    }
}

//! The Node's condition NetworkUnavailable.
//!
//! In: the network's state. Out: a patch of the Node's status at each change, repeated until the API server accepts it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::NetworkState;

const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(500);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Runs until `stop` is cancelled or the state's sender is gone.
pub(crate) async fn report(
    client: kube::Client,
    node: String,
    mut state: watch::Receiver<NetworkState>,
    stop: CancellationToken,
) {
    let nodes: Api<Node> = Api::all(client);
    let follow = async {
        loop {
            let now = state.borrow_and_update().clone();
            let status = patch(&now, Timestamp::now());
            let mut wait = MIN_RETRY_INTERVAL;
            // The Node may not be registered yet, or the server may be away: only the latest state is repeated.
            while let Err(error) =
                nodes.patch_status(&node, &PatchParams::default(), &Patch::Strategic(&status)).await
            {
                tracing::debug!(node, %error, "write condition NetworkUnavailable failed");
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return } else { break },
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(MAX_RETRY_INTERVAL),
                }
            }
            if *state.borrow() == now && state.changed().await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(follow).await;
}

/// Conditions merge by type, so the others stay.
fn patch(state: &NetworkState, now: Timestamp) -> Value {
    let (status, reason, message) = match state {
        NetworkState::Ready => ("False", "SkepIsUp", "services, policy and routes are in the maps"),
        NetworkState::NotReady(why) => ("True", "SkepIsNotReady", why.as_str()),
    };
    let condition = NodeCondition {
        type_: "NetworkUnavailable".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    json!({"status": {"conditions": [condition]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_network_is_not_unavailable() {
        let patch = patch(&NetworkState::Ready, Timestamp::UNIX_EPOCH);
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }
}

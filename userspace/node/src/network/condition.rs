//! The Node's condition NetworkUnavailable: written when it changes, and again until the API server has taken it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::NetworkState;

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Runs until `stop` is cancelled or nobody can change the state any more.
pub async fn report(
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
            let mut wait = RETRY_FIRST;
            // The Node may not be registered yet, the server may be away: only the latest state matters.
            while let Err(error) =
                nodes.patch_status(&node, &PatchParams::default(), &Patch::Strategic(&status)).await
            {
                tracing::debug!(node, %error, "condition NetworkUnavailable not written yet");
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return } else { break },
                    () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_LAST),
                }
            }
            if *state.borrow() == now && state.changed().await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(follow).await;
}

/// Conditions merge by type, so those of others stay.
fn patch(state: &NetworkState, now: Timestamp) -> Value {
    let (status, reason, message) = match state {
        NetworkState::Ready => ("False", "SkepIsUp", "services, policy and routes are in the maps"),
        NetworkState::NotReady(why) => ("True", "SkepIsNotReady", why.as_str()),
    };
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({"status": {"conditions": [{
        "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }]}})
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

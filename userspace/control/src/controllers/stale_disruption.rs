//! Takes back the condition DisruptionTarget of pods whose deletion did not follow: it was refused, or its author is gone.
//! PURE.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::json;
use skep_api::time;

use super::pods;
use super::routing::own_key;
use super::taint_eviction::{DISRUPTION_TARGET, patch_status};
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

/// The time between the condition and the deletion, as upstream.
const MAX_WAIT: Duration = Duration::from_secs(120);

pub struct StaleDisruptions;

impl Controller for StaleDisruptions {
    fn name(&self) -> &'static str {
        "stale-disruption"
    }

    fn account(&self) -> &'static str {
        "disruption-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Pod]
    }

    fn route(&self, change: &Change, _view: &View, keys: &mut Vec<Key>) {
        if let Some(Object::Pod(pod)) = &change.new
            && due(pod).is_some()
        {
            own_key(change, Kind::Pod, keys);
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(pod) = view.pods.get(key) else { return Vec::new() };
        match due(pod) {
            None => Vec::new(),
            Some(at) if at > context.now => vec![Action::RequeueAt(at)],
            Some(_) => {
                let mut conditions =
                    pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
                for condition in conditions.iter_mut().filter(|c| c.type_ == DISRUPTION_TARGET) {
                    *condition = PodCondition {
                        type_: DISRUPTION_TARGET.into(),
                        status: "False".into(),
                        last_transition_time: Some(meta::time(context.now)),
                        observed_generation: pod.metadata.generation,
                        ..Default::default()
                    };
                }
                vec![patch_status(pod, &json!({"conditions": conditions}))]
            }
        }
    }
}

/// When the condition counts as stale; `None` for a pod without it, or one that is going.
fn due(pod: &Pod) -> Option<Timestamp> {
    if meta::terminating(&pod.metadata) || pods::finished(pod) {
        return None;
    }
    let condition = pods::condition(pod, DISRUPTION_TARGET).filter(|c| c.status == "True")?;
    // The node's agent may take any time to end a pod.
    let by_node = condition.reason.as_deref() == Some("TerminationByKubelet");
    let since = condition.last_transition_time.as_ref().filter(|_| !by_node)?;
    Some(time::after(since.0, MAX_WAIT))
}

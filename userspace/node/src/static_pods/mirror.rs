//! Keeps the mirrors of static pods in the API.
//!
//! In: static pods as their workers begin and end, the pods of the API that are mirrors, the statuses that workers compute.
//! Out: writes of [`super::mirror_plan`], repeated until the API server takes them. Nothing is decided before the API's list is
//! complete.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio_util::sync::CancellationToken;

use super::is_mirror;
use super::mirror_plan::{MirrorAction, mirror_of, plan};
use crate::context::NodeContext;
use crate::names;
use crate::worker::{SendResult, send_status};

const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Acts until `stop`.
pub(crate) async fn keep(context: Arc<NodeContext>, stop: CancellationToken) {
    let mirrors = &context.mirrors;
    let mut statuses = context.changes();
    let mut reported: HashMap<String, PodStatus> = HashMap::new();
    loop {
        let actions = planned(&context, &mut reported);
        let mut failed = false;
        for action in actions {
            if let Err(error) = perform(&context, &action, &mut reported).await {
                tracing::debug!(%error, "write mirror pod failed");
                failed = true;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = mirrors.changed.notified() => {}
            Ok(()) = statuses.changed() => {}
            () = tokio::time::sleep(RETRY_INTERVAL), if failed => {}
        }
    }
}

fn planned(context: &NodeContext, reported: &mut HashMap<String, PodStatus>) -> Vec<MirrorAction> {
    let known = context.mirrors.known();
    if !known.synced {
        return Vec::new();
    }
    let of_mirrors: HashSet<String> = known.mirrors.values().map(|pod| names::of(pod).2).collect();
    reported.retain(|uid, _| of_mirrors.contains(uid));
    let status = |pod: &Arc<Pod>| {
        let uid = names::of(pod).2;
        let status = context.pod_of(&uid)?.status?;
        Some((uid, status))
    };
    let statuses = known.statics.values().filter_map(status).collect();
    plan(&known.statics, &known.mirrors, &statuses, reported)
}

async fn perform(
    context: &NodeContext,
    action: &MirrorAction,
    reported: &mut HashMap<String, PodStatus>,
) -> Result<(), kube::Error> {
    match action {
        MirrorAction::Create(pod) => {
            let node = context.node_object.borrow().clone();
            // Without a Node there is no owner; its registration changes pods' statuses.
            let Some(node_uid) = node.and_then(|node| node.metadata.uid) else {
                return Err(kube::Error::Service("the Node is not registered yet".into()));
            };
            let mirror = mirror_of(pod, &context.node, &node_uid);
            let created = api(context, pod).create(&PostParams::default(), &mirror).await?;
            context.mirrors.show(&Arc::new(created));
        }
        MirrorAction::Delete(pod) => {
            let (name, _, uid) = names::of(pod);
            let preconditions = Preconditions { uid: Some(uid.clone()), ..Preconditions::default() };
            let options = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            match api(context, pod).delete(&name, &options).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error),
            }
            context.mirrors.gone(&uid);
        }
        MirrorAction::Report(pod, status) => match send_status(context.client.clone(), pod, status).await? {
            SendResult::Accepted(now) => {
                reported.insert(names::of(pod).2, (**status).clone());
                context.mirrors.show(&Arc::new(*now));
            }
            SendResult::Stale(now) if is_mirror(&now) => context.mirrors.show(&Arc::new(*now)),
            SendResult::Stale(_) | SendResult::Gone => context.mirrors.gone(&names::of(pod).2),
        },
    }
    Ok(())
}

fn api(context: &NodeContext, pod: &Pod) -> Api<Pod> {
    Api::namespaced(context.client.clone(), &names::of(pod).1)
}

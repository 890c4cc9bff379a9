//! Keeps the mirrors of static pods in the API.
//!
//! In: static pods as their workers begin and end, the pods of the API that are mirrors, the statuses that workers compute.
//! Out: writes of [`super::mirror_plan`], repeated until the API server takes them. Nothing is decided before the API's list is
//! complete.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::mirror_plan::{MirrorAction, mirror_of, plan};
use super::{PodKey, is_mirror, key};
use crate::context::NodeContext;
use crate::names;
use crate::worker::{SendResult, send_status};

const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The static pods and their mirrors. The agent adds both; [`Mirrors::keep`] acts.
#[derive(Default)]
pub(crate) struct Mirrors {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    statics: HashMap<PodKey, Arc<Pod>>,
    mirrors: HashMap<PodKey, Arc<Pod>>,
    /// The uids of a list that is not complete yet.
    listed: HashSet<String>,
    /// A list was complete.
    synced: bool,
}

impl Mirrors {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known());
        self.changed.notify_one();
    }

    /// A worker of the static pod begins.
    pub(crate) fn begin(&self, pod: &Arc<Pod>) {
        self.change(|known| drop(known.statics.insert(key(pod), pod.clone())));
    }

    /// Nothing of the static pod is left.
    pub(crate) fn end(&self, uid: &str) {
        self.change(|known| known.statics.retain(|_, pod| names::of(pod).2 != uid));
    }

    /// The API has this mirror.
    pub(crate) fn show(&self, pod: &Arc<Pod>) {
        self.change(|known| {
            known.listed.insert(names::of(pod).2);
            known.mirrors.insert(key(pod), pod.clone());
        });
    }

    /// The API has no pod of this uid.
    pub(crate) fn gone(&self, uid: &str) {
        self.change(|known| known.mirrors.retain(|_, pod| names::of(pod).2 != uid));
    }

    pub(crate) fn list_begins(&self) {
        self.known().listed.clear();
    }

    pub(crate) fn list_complete(&self) {
        self.change(|known| {
            let listed = std::mem::take(&mut known.listed);
            known.mirrors.retain(|_, pod| listed.contains(&names::of(pod).2));
            known.synced = true;
        });
    }

    /// Acts until `stop`.
    pub(crate) async fn keep(context: Arc<NodeContext>, stop: CancellationToken) {
        let mirrors = &context.mirrors;
        let mut statuses = context.changes();
        let mut reported: HashMap<String, PodStatus> = HashMap::new();
        loop {
            let actions = mirrors.plan(&context, &mut reported);
            let mut failed = false;
            for action in actions {
                if let Err(error) = mirrors.perform(&context, &action, &mut reported).await {
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

    fn plan(&self, context: &NodeContext, reported: &mut HashMap<String, PodStatus>) -> Vec<MirrorAction> {
        let known = self.known();
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
        &self,
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
                self.show(&Arc::new(created));
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
                self.gone(&uid);
            }
            MirrorAction::Report(pod, status) => {
                match send_status(context.client.clone(), pod, status).await? {
                    SendResult::Accepted(now) => {
                        reported.insert(names::of(pod).2, (**status).clone());
                        self.show(&Arc::new(*now));
                    }
                    SendResult::Stale(now) if is_mirror(&now) => self.show(&Arc::new(*now)),
                    SendResult::Stale(_) | SendResult::Gone => self.gone(&names::of(pod).2),
                }
            }
        }
        Ok(())
    }
}

fn api(context: &NodeContext, pod: &Pod) -> Api<Pod> {
    Api::namespaced(context.client.clone(), &names::of(pod).1)
}

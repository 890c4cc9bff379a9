//! Sends the pod's status to the API server, until the server accepts it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::time::Instant;

use super::{Done, Worker};
use crate::names;
use crate::plan::{merge_reported, ready};
use crate::static_pods::is_static;
use crate::volumes::payload;

pub(super) const MIN_RETRY_DELAY: Duration = Duration::from_millis(500);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15);

/// A status that was sent, and the result.
pub(super) struct Reported {
    status: PodStatus,
    result: Result<SendResult, kube::Error>,
}

/// The answer to a status that was sent.
pub(crate) enum SendResult {
    /// The API server accepted the status; its pod now.
    Accepted(Box<Pod>),
    /// The pod had changed; the pod now.
    Stale(Box<Pod>),
    /// The pod was deleted.
    Gone,
}

impl Worker {
    /// Begins to send `status` if it has changed.
    pub(super) fn report(&mut self, status: PodStatus) {
        if self.shown.as_ref() != Some(&status) {
            let mut shown = (*self.pod).clone();
            shown.status = Some(status.clone());
            self.context.show_pod(&self.uid, Some(shown));
            self.shown = Some(status.clone());
        }
        if is_static(&self.pod) {
            // Its mirror shows the status; see `static_pods`.
            self.pod = Arc::new(merge_reported((*self.pod).clone(), Some(&status)));
            self.observed.memory.reported = Some(status);
            return;
        }
        let memory = &self.observed.memory;
        if self.reporting || memory.gone || memory.reported.as_ref() == Some(&status) {
            if !self.reporting {
                self.report_at = None;
            }
            return;
        }
        if self.report_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.report_at = None;
        self.reporting = true;
        let (client, pod) = (self.context.client.clone(), self.pod.clone());
        self.tasks.spawn(async move {
            let result = send_status(client, &pod, &status).await;
            Done::Reported(Box::new(Reported { status, result }))
        });
    }

    pub(super) fn reported(&mut self, reported: Reported) {
        self.reporting = false;
        match reported.result {
            Ok(SendResult::Accepted(pod)) => {
                self.report_delay = MIN_RETRY_DELAY;
                self.observed.memory.reported = Some(reported.status);
                self.adopt(*pod);
            }
            Ok(SendResult::Stale(pod)) => self.adopt(*pod),
            Ok(SendResult::Gone) => self.observed.memory.gone = true,
            Err(error) => {
                tracing::debug!(uid = self.uid, %error, "send pod status failed");
                self.report_at = Some(Instant::now() + self.report_delay);
                self.report_delay = (self.report_delay * 2).min(MAX_RETRY_DELAY);
            }
        }
    }

    /// The control plane marks the pods of an unreachable node as unready. When that overruled a ready status, the status is
    /// sent again.
    pub(super) fn resend_if_overruled(&mut self, pod: &Pod) {
        let reported = self.observed.memory.reported.as_ref();
        let overruled = ready(reported) == Some("True") && ready(pod.status.as_ref()) == Some("False");
        if overruled && super::version(pod) > super::version(&self.pod) {
            self.observed.memory.reported = None;
        }
    }

    /// Files of the downward API follow the pod's labels and annotations.
    pub(super) fn refresh_fields(&mut self, pod: &Pod) {
        let (old, new) = (&self.pod.metadata, &pod.metadata);
        let same = old.labels == new.labels && old.annotations == new.annotations;
        if !same && payload::shows_fields(pod) {
            self.volumes_stale = true;
        }
    }

    fn adopt(&mut self, pod: Pod) {
        if super::version(&pod) >= super::version(&self.pod) {
            self.refresh_fields(&pod);
            self.pod = Arc::new(merge_reported(pod, self.observed.memory.reported.as_ref()));
        }
    }
}

/// Sends the status of a pod, if the pod is as it is known.
pub(crate) async fn send_status(
    client: kube::Client,
    pod: &Pod,
    status: &PodStatus,
) -> Result<SendResult, kube::Error> {
    let (name, namespace, uid) = names::of(pod);
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let mut body = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    if let Some(fields) = body.as_object_mut() {
        // A merge patch keeps fields that it does not name.
        for field in ["reason", "message", "podIP", "podIPs"] {
            fields.entry(field).or_insert(serde_json::Value::Null);
        }
    }
    let patch = serde_json::json!({
        "metadata": {"uid": uid, "resourceVersion": pod.metadata.resource_version},
        "status": body,
    });
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(pod) => Ok(SendResult::Accepted(Box::new(pod))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(SendResult::Gone),
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 422 => {
            match api.get_opt(&name).await? {
                Some(now) if now.metadata.uid.as_deref() == Some(uid.as_str()) => {
                    if now.metadata.resource_version == pod.metadata.resource_version {
                        // Not stale: the server rejects the status itself.
                        return Err(kube::Error::Api(status));
                    }
                    Ok(SendResult::Stale(Box::new(now)))
                }
                _ => Ok(SendResult::Gone),
            }
        }
        Err(error) => Err(error),
    }
}

//! The pod's share of the node: whether the node takes the pod, and with which resources.
//!
//! In: the API object, the node's ledger. Out: the pod with the resources that it has, a record of them on disk, events.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::Api;
use serde_json::json;

use super::Worker;
use crate::admit::Admission;
use crate::allocation::{Grant, Resize};
use crate::plan::{self, Termination};
use crate::rejection::Rejection;

const RECORD: &str = "grant.json";

/// What the node had granted to the pod before the agent started.
pub(crate) async fn recorded(folder: &Path) -> Option<Grant> {
    serde_json::from_slice(&tokio::fs::read(folder.join(RECORD)).await.ok()?).ok()
}

impl Worker {
    /// Brings the granted resources up to date with the spec. A pod that the node does not take is ended.
    pub(super) async fn allocate(&mut self) {
        let pod = self.pod.clone();
        let memory = &self.observed.memory;
        let ends =
            memory.failed_by_node.is_some() || memory.gone || pod.metadata.deletion_timestamp.is_some();
        if !ends && !plan::is_terminal(&pod) {
            if let Err(rejection) = self.admit(&pod).await {
                let message = format!("Pod was rejected: {rejection}");
                self.observed.memory.failed_by_node =
                    Some(Termination::new(rejection.reason.clone(), message));
                self.context.events.pod(&pod, None, true, &rejection.reason, rejection.message);
            } else {
                self.resize(&pod).await;
            }
        }
        let grant = self.context.allocations.grant(&self.uid);
        self.granted = grant.map_or_else(|| pod.clone(), |grant| Arc::new(grant.applied(&pod)));
    }

    async fn admit(&mut self, pod: &Pod) -> Result<(), Rejection> {
        self.context.admission.check(pod)?;
        if self.admitted {
            return Ok(());
        }
        // An earlier agent has admitted what already runs.
        let runs = !self.observed.sandboxes.is_empty() || !self.observed.containers.is_empty();
        if runs {
            self.context.allocations.adopt(&self.uid, pod, recorded(&self.folder()).await);
        } else {
            Admission::check_shutdown(*self.context.shutting_down.borrow())?;
            Admission::check_pressure(pod, &self.context.shortages.borrow())?;
            let node = self.context.node_object.borrow().clone();
            let mut admitted = self.context.allocations.admit(&self.uid, pod, node.as_ref());
            // The node's labels may have changed since.
            if admitted.as_ref().is_err_and(|rejection| rejection.reason == "NodeAffinity") {
                let nodes: Api<Node> = Api::all(self.context.client.clone());
                let node = nodes.get(&self.context.node).await.ok();
                admitted = self.context.allocations.admit(&self.uid, pod, node.as_ref());
            }
            admitted?;
        }
        self.admitted = true;
        self.record().await;
        Ok(())
    }

    async fn resize(&mut self, pod: &Pod) {
        let node = self.context.node_object.borrow().clone();
        let generation = pod.metadata.generation;
        match self.context.allocations.resize(&self.uid, pod, node.as_ref()) {
            Resize::Settled => self.observed.memory.deferral = None,
            Resize::Granted => {
                self.observed.memory.deferral = None;
                self.observed.memory.resizing = generation.or(Some(0));
                self.record().await;
                self.note_resize(pod, false, "ResizeStarted", "Pod resize started", "");
            }
            Resize::Waits(deferral) => {
                let known = self.observed.memory.deferral.replace(deferral.clone());
                if known.is_none_or(|known| known.reason != deferral.reason) {
                    let title = format!("Pod resize {}", deferral.reason);
                    let reason = format!("Resize{}", deferral.reason);
                    self.note_resize(pod, true, &reason, &title, &deferral.message);
                }
            }
        }
    }

    /// After a plan: gives back what a pod that has ended held, and reports the end of a resize.
    pub(super) fn settle(&mut self, status: &PodStatus) {
        let is = |wanted: &[&str]| status.phase.as_deref().is_some_and(|phase| wanted.contains(&phase));
        let runs = self.observed.containers.iter().any(plan::Container::is_running);
        // As upstream, a pod that was deleted by force does not count, although its processes may still end.
        if (is(&["Failed", "Succeeded"]) && !runs) || self.observed.memory.gone {
            self.context.allocations.release(&self.uid);
        }
        let in_progress = status.conditions.iter().flatten().any(|c| c.type_ == "PodResizeInProgress");
        if !in_progress && self.observed.memory.resizing.take().is_some() && !is(&["Failed", "Succeeded"]) {
            let pod = self.granted.clone();
            self.note_resize(&pod, false, "ResizeCompleted", "Pod resize completed", "");
        }
    }

    /// An event with the resources of the pod, in upstream's form.
    fn note_resize(&self, pod: &Pod, warning: bool, reason: &str, title: &str, error: &str) {
        let list = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<serde_json::Value> {
            let summary =
                |c: &k8s_openapi::api::core::v1::Container| json!({"name": c.name, "resources": c.resources});
            containers.iter().map(summary).collect()
        };
        let Some(spec) = &pod.spec else { return };
        let mut summary =
            json!({"containers": list(&spec.containers), "generation": pod.metadata.generation});
        if let Some(init) = &spec.init_containers {
            summary["initContainers"] = list(init).into();
        }
        if !error.is_empty() {
            summary["error"] = error.into();
        }
        self.context.events.pod(pod, None, warning, reason, format!("{title}: {summary}"));
    }

    fn folder(&self) -> PathBuf {
        self.context.volumes.pod_folder(&self.uid)
    }

    /// Writes the grant to disk: the spec may ask for other resources when the agent starts again.
    async fn record(&self) {
        let Some(grant) = self.context.allocations.grant(&self.uid) else { return };
        let folder = self.folder();
        let write = async {
            let fresh = folder.join(format!("{RECORD}.new"));
            tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).await?;
            tokio::fs::write(&fresh, serde_json::to_vec(&grant)?).await?;
            tokio::fs::rename(&fresh, folder.join(RECORD)).await
        };
        if let Err(error) = write.await {
            tracing::warn!(uid = self.uid, %error, "write record of granted resources failed");
        }
    }
}

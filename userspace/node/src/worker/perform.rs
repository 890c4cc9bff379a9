//! Performs one action of a plan. It decides nothing.
//!
//! In: a [`Job`] and its action. Out: calls to the runtime and the API server, events, the [`Outcome`].

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio_util::sync::CancellationToken;

use super::job::{Job, failed, of_cri};
use super::kill::kill;
use crate::cri;
use crate::names;
use crate::plan::{Action, Outcome, specs};
use crate::probe_counts::CountedProbe;
use crate::prober::{self, ProbeResult, Target};
use crate::resources;
use skep_cni::NetworkState;

/// How the action ended, and the new watch of the pod's volumes if the action prepared them.
pub(super) async fn perform(
    job: &Job,
    action: &Action,
    cancel: &CancellationToken,
) -> (Outcome, Option<Timestamp>) {
    let mut refresh_at = None;
    let outcome = match action {
        Action::PrepareVolumes => prepare_volumes(job, &mut refresh_at).await,
        Action::CreateSandbox { attempt } => create_sandbox(job, *attempt).await,
        Action::Start { name, attempt, sandbox } => {
            super::start::start(job, name, *attempt, sandbox, cancel).await
        }
        Action::Kill { name, id, grace, pre_stop, message, replace: _ } => {
            kill(job, name, id, grace.unsigned_abs(), *pre_stop, message).await
        }
        Action::Resize { id, to, .. } => {
            of_cri(job.context.cri.update_container(id, cri::container::cgroup_resources(to)).await)
        }
        Action::Probe { name, id, kind } => probe(job, name, id, *kind).await,
        Action::StopSandbox { id } => of_cri(job.context.cri.stop_sandbox(id).await),
        Action::RemoveContainer { id } => of_cri(job.context.cri.remove_container(id).await),
        Action::RemoveSandbox { id } => of_cri(job.context.cri.remove_sandbox(id).await),
        Action::CleanUp => clean_up(job).await,
        Action::Delete => delete(job).await,
        Action::Note(note) => {
            job.context.events.pod(
                &job.pod,
                note.container.as_deref(),
                note.warning,
                note.reason,
                &note.message,
            );
            Outcome::Done
        }
    };
    if let Outcome::Failed { reason, message, .. } = &outcome {
        tracing::info!(
            pod = crate::plan::status::pod_text(&job.pod),
            ?action,
            reason,
            message,
            "action failed"
        );
    }
    (outcome, refresh_at)
}

async fn prepare_volumes(job: &Job, refresh_at: &mut Option<Timestamp>) -> Outcome {
    let has_ended = |uid: &str| job.context.has_ended(uid);
    match job.context.volumes.prepare(&job.pod, &has_ended).await {
        Ok(at) => {
            *refresh_at = at;
            Outcome::Done
        }
        Err(error) => {
            job.context.events.pod(&job.pod, None, true, "FailedMount", error.to_string());
            failed("FailedMount", error)
        }
    }
}

async fn create_sandbox(job: &Job, attempt: u32) -> Outcome {
    let context = &job.context;
    if attempt > 0 {
        let message = "Pod sandbox changed, it will be killed and re-created.";
        context.events.pod(&job.pod, None, false, "SandboxChanged", message);
    }
    // The pod's resolv.conf names the cluster's DNS Service.
    context.services.wait_until_listed().await;
    let handler = runtime_handler(job).await;
    if let Err(error) = user_namespace(job, &handler) {
        return sandbox_failed(job, error);
    }
    let config = match sandbox_config(job, attempt) {
        Ok(config) => config,
        Err(error) => return sandbox_failed(job, error),
    };
    if let Err(error) = tokio::fs::create_dir_all(&config.log_directory).await {
        return sandbox_failed(job, error);
    }
    if let Err(error) = network_ready(job).await {
        let message = error.to_string();
        context.events.pod(&job.pod, None, true, "NetworkNotReady", message.clone());
        return failed("NetworkNotReady", message);
    }
    match context.cri.run_sandbox(config, &handler).await {
        Ok(id) => {
            context.set_owner(&id, &job.uid);
            Outcome::Done
        }
        Err(error) => sandbox_failed(job, error),
    }
}

fn sandbox_failed(job: &Job, error: impl std::fmt::Display) -> Outcome {
    let message = format!("Failed to create pod sandbox: {error}");
    job.context.events.pod(&job.pod, None, true, "FailedCreatePodSandBox", message.clone());
    failed("FailedCreatePodSandBox", message)
}

#[derive(Debug, thiserror::Error)]
enum NoUserNamespace {
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    Runtime,
    #[error("can't set `spec.hostUsers: false`, RuntimeClass handler {0:?} does not support user namespaces")]
    Handler(String),
}

/// A pod that wants a user namespace of its own waits, as with upstream's kubelet: the agent asks no runtime for one.
fn user_namespace(job: &Job, handler: &str) -> Result<(), NoUserNamespace> {
    match job.pod.spec.as_ref().and_then(|spec| spec.host_users) {
        Some(false) if handler.is_empty() => Err(NoUserNamespace::Runtime),
        Some(false) => Err(NoUserNamespace::Handler(handler.to_owned())),
        _ => Ok(()),
    }
}

/// The sandbox's configuration, after the pod's cgroup was made.
pub(super) fn sandbox_config(job: &Job, attempt: u32) -> std::io::Result<cri::api::PodSandboxConfig> {
    let context = &job.context;
    let name_servers = context.services.name_servers();
    let mut config = cri::sandbox::config(&job.pod, attempt, &context.settings, name_servers);
    if !config.hostname.is_empty() {
        config.hostname = cri::sandbox::kernel_hostname(&job.pod, &context.settings.cluster_domain)
            .map_err(std::io::Error::other)?;
    }
    if let Some(linux) = &mut config.linux {
        linux.cgroup_parent =
            context.pod_cgroups.prepare(&linux.cgroup_parent, &job.uid, resources::pod_cgroup(&job.pod))?;
    }
    Ok(config)
}

#[derive(Debug, thiserror::Error)]
#[error("network is not ready: {0}")]
struct NetworkNotReady(String);

/// Waits for the node's network, unless the pod uses the host's.
async fn network_ready(job: &Job) -> Result<(), NetworkNotReady> {
    const NETWORK_TIMEOUT: Duration = Duration::from_secs(30);
    if job.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
        return Ok(());
    }
    let mut state = job.context.network.clone();
    let ready = state.wait_for(|state| *state == NetworkState::Ready);
    if let Ok(Ok(_)) = tokio::time::timeout(NETWORK_TIMEOUT, ready).await {
        return Ok(());
    }
    let NetworkState::NotReady(why) = job.context.network.borrow().clone() else { return Ok(()) };
    Err(NetworkNotReady(why))
}

/// The runtime's name for the pod's RuntimeClass; empty for the default.
async fn runtime_handler(job: &Job) -> String {
    let Some(class) = job.pod.spec.as_ref().and_then(|s| s.runtime_class_name.clone()) else {
        return String::new();
    };
    let api: Api<k8s_openapi::api::node::v1::RuntimeClass> = Api::all(job.context.client.clone());
    match api.get_opt(&class).await {
        Ok(Some(found)) => found.handler,
        _ => class,
    }
}

async fn probe(job: &Job, name: &str, id: &str, kind: crate::plan::ProbeKind) -> Outcome {
    let all = specs(&job.pod);
    let container = all.iter().find(|s| s.container.name == name).map(|s| &s.container);
    let Some((container, settings)) = container.and_then(|c| Some((c, kind.of(c)?))) else {
        return Outcome::Done;
    };
    let target = Target { container, id, ip: job.ips.first().copied() };
    let began = Instant::now();
    let ProbeResult { success, output, warns } = prober::probe(&job.context.cri, settings, &target).await;
    let (pod, namespace, uid) = names::of(&job.pod);
    let key = CountedProbe { namespace, pod, uid, container: name.to_owned(), kind };
    job.context.probes.record(key, success, began.elapsed());
    if !success {
        let message = format!("{} probe failed: {output}", kind.name());
        job.context.events.pod(&job.pod, Some(name), true, "Unhealthy", message);
    }
    if warns {
        let message = format!("{} probe warning: {output}", kind.name());
        job.context.events.pod(&job.pod, Some(name), true, "ProbeWarning", message);
    }
    Outcome::Probed { success, output }
}

async fn clean_up(job: &Job) -> Outcome {
    let settings = &job.context.settings;
    let logs = format!("{}/{}", settings.log_root, names::log_folder(&job.pod));
    if let Err(error) = job.context.pod_cgroups.remove(&settings.cgroup_parent, &job.uid) {
        return failed("CleanUp", error);
    }
    if let Err(error) = job.context.volumes.clean_up(&job.context.cri, &job.uid).await {
        return failed("CleanUp", error);
    }
    match tokio::fs::remove_dir_all(logs).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => failed("CleanUp", error),
        _ => Outcome::Done,
    }
}

async fn delete(job: &Job) -> Outcome {
    let (name, namespace, uid) = names::of(&job.pod);
    let api: Api<Pod> = Api::namespaced(job.context.client.clone(), &namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..Default::default()
    };
    match api.delete(&name, &params).await {
        Ok(_) => Outcome::Done,
        // The pod is gone, or another pod has its name now.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Outcome::Done,
        Err(error) => failed("Delete", error),
    }
}

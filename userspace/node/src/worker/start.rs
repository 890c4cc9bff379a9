//! Starts one container: image, environment, mounts, create, start, postStart.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio_util::sync::CancellationToken;

use super::job::Job;
use super::kill::kill;
use crate::cri::{self, api};
use crate::env::{self, Objects};
use crate::plan::{Outcome, specs};
use crate::prober::{self, Target};
use crate::volumes::payload;
use crate::volumes::sub_path::SubPathMounts;

/// A failed start: the reason that the API shows, and the message.
pub(super) struct Failed {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) image: Option<String>,
}

impl Failed {
    pub(super) fn new(reason: &'static str, error: impl ToString) -> Failed {
        Failed { reason, message: error.to_string(), image: None }
    }
}

/// Starts the container as attempt `attempt` in the sandbox.
pub(super) async fn start(
    job: &Job,
    name: &str,
    attempt: u32,
    sandbox: &str,
    cancel: &CancellationToken,
) -> Outcome {
    let all = specs(&job.pod);
    let Some(spec) = all.iter().find(|s| s.container.name == name) else { return Outcome::Done };
    match run(job, &spec.container, attempt, sandbox, cancel).await {
        Ok(()) => Outcome::Done,
        Err(failed) => {
            Outcome::Failed { reason: failed.reason.to_owned(), message: failed.message, image: failed.image }
        }
    }
}

async fn run(
    job: &Job,
    container: &Container,
    attempt: u32,
    sandbox: &str,
    cancel: &CancellationToken,
) -> Result<(), Failed> {
    let context = &job.context;
    let name = container.name.as_str();
    let images = async {
        let image = super::image::of_container(job, container).await?;
        super::image::of_volumes(job, container).await.map(|()| image)
    };
    let image = tokio::select! {
        image = images => image?,
        () = cancel.cancelled() => return Err(Failed::new("ContainerCreating", "the pod is being stopped")),
    };
    let prepared = prepare(job, container, attempt, image).await;
    // An ephemeral container may have come after the pod was admitted.
    let admitted = context.admission.check(&job.pod);
    let admitted = admitted.map_err(|rejection| Failed::new("CreateContainerConfigError", rejection));
    let prepared = admitted.and(prepared);
    let config = prepared.and_then(|(prepared, sub_paths)| {
        cri::container::config(&job.pod, container, &prepared, &context.settings)
            .map(|config| (config, sub_paths))
            .map_err(|problem| Failed::new("CreateContainerConfigError", problem))
    });
    // The runtime reads the mounts of subPaths until the container has started.
    let (config, sub_paths) = config.inspect_err(|failed| {
        context.events.pod(&job.pod, Some(name), true, "Failed", format!("Error: {}", failed.message));
    })?;
    let sandbox_config = super::perform::sandbox_config(job, job.sandbox_attempt)
        .map_err(|error| Failed::new("CreateContainerError", error))?;
    let created = context.cri.create_container(sandbox, config, sandbox_config).await;
    let id = created.map_err(|error| {
        context.events.pod(&job.pod, Some(name), true, "Failed", format!("Error: {error}"));
        Failed::new("CreateContainerError", error)
    })?;
    context.set_owner(&id, &job.uid);
    context.events.pod(&job.pod, Some(name), false, "Created", "Container created");
    if let Err(error) = context.cri.start_container(&id).await {
        context.events.pod(&job.pod, Some(name), true, "Failed", format!("Error: {error}"));
        return Err(Failed::new("RunContainerError", error));
    }
    drop(sub_paths);
    context.events.pod(&job.pod, Some(name), false, "Started", "Container started");
    post_start(job, container, &id, cancel).await
}

async fn post_start(
    job: &Job,
    container: &Container,
    id: &str,
    cancel: &CancellationToken,
) -> Result<(), Failed> {
    const MAX_HOOK_DURATION: Duration = Duration::from_secs(24 * 3600);
    let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
        return Ok(());
    };
    let target = Target { container, id, ip: job.ips.first().copied() };
    let result = tokio::select! {
        result = prober::hook(&job.context.cri, handler, &target, MAX_HOOK_DURATION) => result,
        () = cancel.cancelled() => return Ok(()),
    };
    let Err(error) = result else { return Ok(()) };
    job.context.events.pod(
        &job.pod,
        Some(&container.name),
        true,
        "FailedPostStartHook",
        "PostStartHook failed",
    );
    tracing::info!(container = container.name, %error, "postStart hook failed");
    let grace = crate::plan::spec_grace(&job.pod).unsigned_abs();
    kill(job, &container.name, id, grace, false, "FailedPostStartHook").await;
    Err(Failed::new("PostStartHookError", "PostStartHook failed"))
}

/// Environment and mounts of the container.
async fn prepare(
    job: &Job,
    container: &Container,
    attempt: u32,
    image: api::Image,
) -> Result<(cri::container::Prepared, SubPathMounts), Failed> {
    let context = &job.context;
    let config_error = |error: &dyn std::fmt::Display| Failed::new("CreateContainerConfigError", error);
    let keys = payload::env_references(&job.pod, container);
    let objects: Objects = if keys.is_empty() {
        Objects::default()
    } else {
        context.volumes.fetch(&keys).await.map_err(|e| config_error(&e))?
    };
    context.services.wait_until_listed().await;
    let services = context.services.variables(&job.pod);
    let ips: Vec<String> = if job.ips.is_empty() {
        context.node_view.ips.clone()
    } else {
        job.ips.iter().map(ToString::to_string).collect()
    };
    let facts = crate::downward::PodFacts::new(&job.pod, &context.node_view.ips, &ips, context.allocatable);
    let env = env::resolve(container, &facts, &objects, &services).map_err(|e| config_error(&e))?;
    let hostname = cri::sandbox::hostname(&job.pod);
    let volumes = &context.volumes;
    let (mut mounts, sub_paths) = volumes
        .mounts(&job.pod, container, &env, context.features.recursive_read_only)
        .map_err(|e| config_error(&e))?;
    let domain = &context.settings.cluster_domain;
    let hosts = volumes.hosts_mount(&job.pod, container, &hostname, &ips, domain);
    mounts.extend(hosts.map_err(|e| config_error(&e))?);
    let message = volumes.termination_mount(&job.pod, container, attempt);
    let (message_file, mount) = message.map_err(|e| config_error(&e))?;
    mounts.push(mount);
    let target = job.pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
    let target = target.filter(|e| e.name == container.name).find_map(|e| e.target_container_name.clone());
    let prepared = cri::container::Prepared {
        attempt,
        image_id: image.id,
        image_uid: image.uid.map(|u| u.value),
        image_user: image.username,
        env,
        mounts,
        message_file: message_file.display().to_string(),
        node_memory: context.allocatable.memory,
        target: target.and_then(|name| job.container_ids.get(&name).cloned()),
    };
    Ok((prepared, sub_paths))
}

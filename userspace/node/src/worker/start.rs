//! Starts one container: image, environment, mounts, create, start, postStart.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Container;
use skep_api::kinds::pulls_always;
use tokio_util::sync::CancellationToken;

use super::job::Job;
use super::kill::kill;
use crate::cri::{self, api};
use crate::env::{self, Objects};
use crate::plan::{Outcome, specs};
use crate::prober::{self, Target};
use crate::volumes::payload;
use crate::volumes::sub_path::SubPathMounts;

/// How long a start waits for the first list of Services.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(5);

/// A failed start: the reason that the API shows, and the message.
struct Failed {
    reason: &'static str,
    message: String,
    image: Option<String>,
}

impl Failed {
    fn new(reason: &'static str, error: impl ToString) -> Failed {
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
    let image = tokio::select! {
        image = ensure_image(job, container) => image?,
        () = cancel.cancelled() => return Err(Failed::new("ContainerCreating", "the pod is being stopped")),
    };
    let prepared = prepare(job, container, attempt, image).await;
    let config = prepared.and_then(|(prepared, sub_paths)| {
        cri::container::config(&job.pod, container, &prepared)
            .map(|config| (config, sub_paths))
            .map_err(|problem| Failed::new("CreateContainerConfigError", problem))
    });
    // The runtime reads the mounts of subPaths until the container has started.
    let (config, sub_paths) = config.inspect_err(|failed| {
        context.events.pod(&job.pod, Some(name), true, "Failed", format!("Error: {}", failed.message));
    })?;
    let sandbox_config = cri::sandbox::config(&job.pod, job.sandbox_attempt, &context.settings);
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

/// The image in the runtime, after a pull if the policy requires one.
async fn ensure_image(job: &Job, container: &Container) -> Result<api::Image, Failed> {
    let context = &job.context;
    let image = container.image.clone().unwrap_or_default();
    let name = container.name.as_str();
    let note =
        |warning, reason, message: String| context.events.pod(&job.pod, Some(name), warning, reason, message);
    let policy = container.image_pull_policy.clone().unwrap_or_else(|| default_policy(&image).to_owned());
    if !plausible(&image) {
        let message = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        note(true, "InspectFailed", message.clone());
        note(true, "Failed", "Error: InvalidImageName".to_owned());
        return Err(Failed { reason: "InvalidImageName", message, image: Some(image) });
    }
    let present = context.cri.image(&image).await.map_err(|error| Failed {
        reason: "ImageInspectError",
        message: format!("Failed to inspect image \"{image}\": {error}"),
        image: Some(image.clone()),
    })?;
    match (present, policy.as_str()) {
        (Some(found), "IfNotPresent" | "Never") => {
            let message = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            note(false, "Pulled", message);
            return Ok(found);
        }
        (None, "Never") => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            note(true, "ErrImageNeverPull", message.clone());
            note(true, "Failed", "Error: ErrImageNeverPull".to_owned());
            return Err(Failed { reason: "ErrImageNeverPull", message, image: Some(image) });
        }
        _ => {}
    }
    pull(job, name, &image).await
}

async fn pull(job: &Job, name: &str, image: &str) -> Result<api::Image, Failed> {
    let context = &job.context;
    let note =
        |warning, reason, message: String| context.events.pod(&job.pod, Some(name), warning, reason, message);
    note(false, "Pulling", format!("Pulling image \"{image}\""));
    let began = Instant::now();
    let auth = crate::images::credentials(&context.client, &job.pod, image).await;
    let pulled = context.cri.pull(image, auth).await;
    let failed = |message: String| {
        note(true, "Failed", format!("Failed to pull image \"{image}\": {message}"));
        note(true, "Failed", "Error: ErrImagePull".to_owned());
        note(false, "BackOff", format!("Back-off pulling image \"{image}\""));
        note(true, "Failed", "Error: ImagePullBackOff".to_owned());
        Failed { reason: "ErrImagePull", message, image: Some(image.to_owned()) }
    };
    pulled.map_err(|error| failed(error.to_string()))?;
    let found = context.cri.image(image).await.map_err(|error| failed(error.to_string()))?;
    let found = found.ok_or_else(|| failed("the image vanished after its pull".to_owned()))?;
    let took = began.elapsed();
    note(
        false,
        "Pulled",
        format!(
            "Successfully pulled image \"{image}\" in {took:.3?} ({took:.3?} including waiting). Image size: {} bytes.",
            found.size
        ),
    );
    Ok(found)
}

/// The API server's default, for a container without a policy.
fn default_policy(image: &str) -> &'static str {
    if pulls_always(image) { "Always" } else { "IfNotPresent" }
}

/// Rejects what cannot be an image reference; the runtime validates the rest.
fn plausible(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let repository = match name.rsplit_once(':') {
        Some((front, tag)) if !tag.contains('/') => {
            if tag.is_empty() || tag.len() > 128 {
                return false;
            }
            front
        }
        _ => name,
    };
    let (first, rest) = repository.split_once('/').unwrap_or(("", repository));
    let host = first.contains(['.', ':']) || first == "localhost";
    let path = if host || first.is_empty() { rest } else { repository };
    !path.is_empty()
        && path.split('/').all(|part| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
        })
        && digest.is_none_or(|d| d.contains(':'))
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
    // Right after the agent's start the list may be incomplete. Without an API server the start continues without it.
    let mut synced = context.services.synced();
    let _ = tokio::time::timeout(SERVICES_TIMEOUT, synced.wait_for(|synced| *synced)).await;
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
    let (mut mounts, sub_paths) = volumes.mounts(&job.pod, container, &env).map_err(|e| config_error(&e))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implausible_image_references_are_rejected() {
        for good in ["busybox", "localhost/skep/web:1", "a.b:5000/c/d:latest", "x@sha256:00", "a/b-c_d.e"] {
            assert!(plausible(good), "{good}");
        }
        for bad in ["", "UPPER", "a//b", ":tag", "a:", "-a", "no spaces:1"] {
            assert!(!plausible(bad), "{bad}");
        }
    }

    #[test]
    fn latest_and_untagged_images_are_always_pulled() {
        assert_eq!(default_policy("busybox"), "Always");
        assert_eq!(default_policy("h:5000/busybox"), "Always");
        assert_eq!(default_policy("h:5000/busybox:1"), "IfNotPresent");
        assert_eq!(default_policy("b@sha256:00"), "IfNotPresent");
    }
}

//! The images of a container and of its volumes: present and accessible to their pod, or pulled.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Volume};
use skep_api::kinds::pulls_always;

use super::job::Job;
use super::start::Failed;
use crate::cri::{CriError, api};
use crate::images::{self, SecretId};

/// The container's image in the runtime, after a pull if the policy requires one.
pub(super) async fn of_container(job: &Job, container: &Container) -> Result<api::Image, Failed> {
    ensure(job, Some(&container.name), container.image.as_ref(), container.image_pull_policy.as_ref()).await
}

/// Pulls and mounts the images that the container has as volumes.
pub(super) async fn of_volumes(job: &Job, container: &Container) -> Result<(), Failed> {
    for (volume, source) in image_volumes(job, container) {
        let image = ensure(job, None, source.reference.as_ref(), source.pull_policy.as_ref()).await?;
        let volumes = &job.context.volumes;
        volumes.mount_image(&job.context.cri, &job.pod, volume, &image).await.map_err(|error| {
            job.context.events.pod(&job.pod, None, true, "FailedMount", error.to_string());
            Failed::new("CreateContainerError", error)
        })?;
    }
    Ok(())
}

fn image_volumes<'j>(
    job: &'j Job,
    container: &Container,
) -> impl Iterator<Item = (&'j Volume, &'j ImageVolumeSource)> {
    let volumes = job.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| Some((volume, volume.image.as_ref()?)))
        .filter(|(volume, _)| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name))
}

/// `container` names the container of whose image the events are.
async fn ensure(
    job: &Job,
    container: Option<&str>,
    image: Option<&String>,
    policy: Option<&String>,
) -> Result<api::Image, Failed> {
    let context = &job.context;
    let image = image.cloned().unwrap_or_default();
    let note =
        |warning, reason, message: String| context.events.pod(&job.pod, container, warning, reason, message);
    let policy = policy.cloned().unwrap_or_else(|| default_policy(&image).to_owned());
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
    let id = present.as_ref().map(|found| found.id.clone());
    match (present, policy.as_str()) {
        (Some(found), "IfNotPresent" | "Never") if accessible(job, &image, &found.id).await => {
            let message = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            note(false, "Pulled", message);
            return Ok(found);
        }
        (present, "Never") => {
            let message = match present {
                None => format!("Container image \"{image}\" is not present with pull policy of Never"),
                Some(_) => format!(
                    "Container image \"{image}\" is present with pull policy of Never but does not have the proper auth (image secret) that was used to pull the image"
                ),
            };
            note(true, "ErrImageNeverPull", message.clone());
            note(true, "Failed", "Error: ErrImageNeverPull".to_owned());
            return Err(Failed { reason: "ErrImageNeverPull", message, image: Some(image) });
        }
        _ => {}
    }
    pull(job, container, &image, id.as_deref()).await
}

async fn pull(
    job: &Job,
    container: Option<&str>,
    image: &str,
    present: Option<&str>,
) -> Result<api::Image, Failed> {
    let context = &job.context;
    let note =
        |warning, reason, message: String| context.events.pod(&job.pod, container, warning, reason, message);
    note(false, "Pulling", format!("Pulling image \"{image}\""));
    let began = Instant::now();
    let failed = |message: String| {
        note(true, "Failed", format!("Failed to pull image \"{image}\": {message}"));
        note(true, "Failed", "Error: ErrImagePull".to_owned());
        note(false, "BackOff", format!("Back-off pulling image \"{image}\""));
        note(true, "Failed", "Error: ImagePullBackOff".to_owned());
        Failed { reason: "ErrImagePull", message, image: Some(image.to_owned()) }
    };
    context.pulls.begin(image, present).map_err(|error| failed(error.to_string()))?;
    let secret = match pull_with_any(job, image).await {
        Ok(secret) => secret,
        Err(error) => {
            if let Err(error) = context.pulls.failed(image) {
                tracing::warn!(image, %error, "record failed image pull failed");
            }
            return Err(failed(error.to_string()));
        }
    };
    let found = context.cri.image(image).await.map_err(|error| failed(error.to_string()))?;
    let found = found.ok_or_else(|| failed("the image vanished after its pull".to_owned()))?;
    let recorded = context.pulls.pulled(image, &found, secret.as_ref());
    recorded.map_err(|error| failed(error.to_string()))?;
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

/// Pulls with the credentials that the registry accepts first: those of the pod's Secrets, then those of the node's credential
/// providers; without any if there are none for the registry. An image that the node's credentials brought is for every pod.
async fn pull_with_any(job: &Job, image: &str) -> Result<Option<SecretId>, CriError> {
    let cri = &job.context.cri;
    let mut refusal = None;
    for candidate in images::credentials(&job.context.client, &job.pod, image).await {
        match cri.pull(image, Some(candidate.auth)).await {
            Ok(_) => return Ok(Some(candidate.secret)),
            Err(error) => refusal = Some(error),
        }
    }
    for auth in job.context.providers.credentials(image).await {
        match cri.pull(image, Some(auth)).await {
            Ok(_) => return Ok(None),
            Err(error) => refusal = Some(error),
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => cri.pull(image, None).await.map(|_| None),
    }
}

/// Whether the pod may use the image that is present, without asking the registry.
async fn accessible(job: &Job, image: &str, id: &str) -> bool {
    let pulls = &job.context.pulls;
    pulls.may_use(image, id, &[])
        || pulls.may_use(image, id, &images::secret_ids(&job.context.client, &job.pod).await)
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

//! PodSecurity: checks pods against the standards that the labels of their namespace name. A violation refuses the pod,
//! warns the client, or annotates the audit event.

mod checks;
mod container;
mod finding;
mod policy;
mod spec;

use serde_json::Value;
use skep_api::{Errors, Status, meta};

use crate::admission::request::{Operation, Request};
use checks::evaluate;
use finding::Finding;
use policy::{PREFIX, PodSecurityPolicy, Standard};

/// Pods that are checked when a namespace's standard is raised.
const MAX_CHECKED_PODS: usize = 3_000;

pub(super) fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let kind = request.kind();
    match (&*kind.group, &*kind.plural, request.subresource()) {
        ("", "namespaces", "") => validate_namespace(request, object),
        ("", "pods", "" | "ephemeralcontainers") => validate_pod(request, object),
        _ => {
            if let Some(template) = template(request, object) {
                check(request, template, false).map(drop)?;
            }
            Ok(())
        }
    }
}

/// The pod template of a workload: violations warn and do not refuse.
fn template<'a>(request: &Request<'_>, object: &'a Value) -> Option<&'a Value> {
    if !request.subresource().is_empty() || request.operation == Operation::Delete {
        return None;
    }
    let template = match (&*request.kind().group, &*request.kind().plural) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template.is_object().then_some(template)
}

fn validate_pod(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    if request.old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(());
    }
    match check(request, pod, true)? {
        Some(why) => Err(request.forbidden(pod, why)),
        None => Ok(()),
    }
}

/// Whether a change of a pod changes images, or brings an ephemeral container that is not exactly one of before.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<(Value, Value)> {
        let all = pod["spec"][list].as_array().into_iter().flatten();
        all.map(|container| (container["name"].clone(), container["image"].clone())).collect()
    };
    let differ = |list: &str| images(pod, list) != images(old, list);
    let ephemeral =
        |pod: &'_ Value| pod["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let before = ephemeral(old);
    differ("containers")
        || differ("initContainers")
        || ephemeral(pod).iter().any(|container| !before.contains(container))
}

/// Warns and annotates; returns the reason to refuse the pod, if any.
fn check(request: &Request<'_>, pod: &Value, enforce: bool) -> Result<Option<String>, Status> {
    let Some(namespace) = request.get("", "v1", "namespaces", "", request.namespace()) else {
        return Ok(None);
    };
    let mut problems = Errors::default();
    let policy = PodSecurityPolicy::of(&namespace.selectable, &mut problems);
    if policy.is_privileged() {
        return Ok(None);
    }
    let notes = &request.call.notes;
    let mut refused = None;
    if enforce {
        notes.annotate(format!("{PREFIX}enforce-policy"), policy.enforce.to_string());
        refused = violations(policy.enforce, pod).map(|what| format!("violates {what}"));
    }
    if let Some(what) = violations(policy.audit, pod) {
        notes.annotate(format!("{PREFIX}audit-violations"), format!("would violate {what}"));
    }
    if !problems.is_empty() {
        let all: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        notes.annotate(format!("{PREFIX}error"), format!("Failed to parse policy: {}", all.join(", ")));
    }
    if refused.is_none()
        && let Some(what) = violations(policy.warn, pod)
    {
        notes.warn(format!("would violate {what}"));
    }
    Ok(refused)
}

/// The violations of a standard as text; `None` if there are none.
fn violations(standard: Standard, pod: &Value) -> Option<String> {
    let findings = evaluate(standard, pod);
    let all: Vec<String> = findings.iter().map(Finding::to_string).collect();
    (!all.is_empty()).then(|| format!("PodSecurity \"{standard}\": {}", all.join(", ")))
}

fn validate_namespace(request: &Request<'_>, namespace: &Value) -> Result<(), Status> {
    let (mut problems, mut before) = (Errors::default(), Errors::default());
    let policy = PodSecurityPolicy::of(&namespace["metadata"]["labels"], &mut problems);
    let old = request.old.map(|old| PodSecurityPolicy::of(&old["metadata"]["labels"], &mut before));
    // Labels that were invalid before do not block other changes of the namespace.
    if !problems.is_empty() && problems != before {
        return Err(Status::invalid(request.kind(), meta::name(namespace), &problems));
    }
    if let Some(old) = old
        && policy.enforce.raises(old.enforce)
    {
        warn_of_existing_pods(request, meta::name(namespace), policy.enforce);
    }
    Ok(())
}

/// Warns of the existing pods that violate a raised standard, grouped by finding.
fn warn_of_existing_pods(request: &Request<'_>, namespace: &str, standard: Standard) {
    let pods = request.list("", "v1", "pods", namespace);
    let mut found: Vec<(String, String, usize)> = Vec::new();
    for pod in pods.iter().take(MAX_CHECKED_PODS).map(|pod| pod.value()) {
        let reasons: Vec<String> =
            evaluate(standard, &pod).into_iter().map(|finding| finding.reason).collect();
        if reasons.is_empty() {
            continue;
        }
        let reasons = reasons.join(", ");
        match found.iter_mut().find(|(known, ..)| *known == reasons) {
            Some((_, _, count)) => *count += 1,
            None => found.push((reasons, meta::name(&pod).to_owned(), 1)),
        }
    }
    let notes = &request.call.notes;
    if pods.len() > MAX_CHECKED_PODS {
        notes.warn(format!(
            "new PodSecurity enforce level only checked against the first {MAX_CHECKED_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        notes.warn(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, pod, count)| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            _ => format!("{pod} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    lines.into_iter().for_each(|line| notes.warn(line));
}

#[cfg(test)]
mod tests;

//! PURE. The pod of a manifest file, as the kubelet names and marks it.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skep_api::kinds::object_reference;
use skep_api::schema::SchemaProblem;
use skep_api::{FieldError, find};

use super::{FILE, HASH, SEEN, SOURCE};

/// Events that aliases may repeat, as in a request to the API server.
const MAX_ALIAS_EVENTS: usize = 50_000;
/// So many bytes of a digest are a pod's uid.
const UID_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("couldn't parse as pod: {0}")]
    Syntax(#[from] Box<serde_saphyr::Error>),
    #[error("couldn't parse as pod: it is a {0}")]
    OtherKind(String),
    #[error("couldn't parse as pod: {0}")]
    Undecodable(String),
    #[error("invalid pod: name is needed for the pod")]
    NoName,
    #[error("invalid pod: {0}")]
    Invalid(String),
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
    #[error("couldn't parse as pod: {0}")]
    Type(#[from] serde_json::Error),
}

/// A pod, and fields of its file that are unknown.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) pod: Pod,
    pub(super) unknown: Vec<String>,
}

/// Reads a manifest, in YAML or JSON. The uid follows from the text's content, the node and the path.
pub(super) fn parse(text: &[u8], path: &Path, node: &str, now: Timestamp) -> Result<Manifest, ManifestError> {
    let limits = serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIAS_EVENTS };
    let options = serde_saphyr::options! { alias_limits: limits, legacy_octal_numbers: true };
    let mut value: Value = serde_saphyr::from_slice_with_options(text, options).map_err(Box::new)?;
    let kind = find("", "v1", "pods").filter(|_| value["apiVersion"] == "v1" && value["kind"] == "Pod");
    let Some(kind) = kind else {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        return Err(ManifestError::OtherKind(format!("{} {}", text("apiVersion"), text("kind"))));
    };
    let problems = kind.check_schema(&mut value);
    if let Some(problem) = SchemaProblem::undecodable(&problems) {
        return Err(ManifestError::Undecodable(problem.to_string()));
    }
    let unknown = problems.iter().map(ToString::to_string).collect();
    if value["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(ManifestError::NoName);
    }
    mark(&mut value, path, node, now);
    kind.complete_new(&mut value);
    let errors = kind.validate_create(&value);
    if !errors.is_empty() {
        let all: Vec<String> = errors.0.iter().map(FieldError::to_string).collect();
        return Err(ManifestError::Invalid(all.join(", ")));
    }
    if let Some(what) = object_reference(&value) {
        return Err(ManifestError::Reference(what));
    }
    if let Some(meta) = value["metadata"].as_object_mut() {
        meta.remove("generation");
    }
    Ok(Manifest { pod: serde_json::from_value(value)?, unknown })
}

/// Gives the pod its uid, its place and its marks.
fn mark(pod: &mut Value, path: &Path, node: &str, now: Timestamp) {
    let given = pod["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()).map(str::to_owned);
    let uid = given.unwrap_or_else(|| {
        let mut digest = Sha256::new();
        digest.update(pod.to_string());
        digest.update(format!("host:{node}file:{}", path.display()));
        digest.finalize().iter().take(UID_BYTES).map(|byte| format!("{byte:02x}")).collect()
    });
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    pod["metadata"]["name"] = format!("{name}-{}", node.to_lowercase()).into();
    if pod["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
        pod["metadata"]["namespace"] = "default".into();
    }
    let annotations = &mut pod["metadata"]["annotations"];
    annotations[HASH] = uid.as_str().into();
    annotations[SEEN] = now.to_string().into();
    annotations[SOURCE] = FILE.into();
    pod["metadata"]["uid"] = uid.into();
    pod["spec"]["nodeName"] = node.into();
    let tolerations = &mut pod["spec"]["tolerations"];
    if !tolerations.is_array() {
        *tolerations = json!([]);
    }
    let everything = json!({"operator": "Exists", "effect": "NoExecute"});
    if let Some(list) = tolerations.as_array_mut().filter(|list| !list.contains(&everything)) {
        list.push(everything);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: main, image: \"web:1\"}]\n";

    fn parsed(text: &str) -> Result<Manifest, ManifestError> {
        parse(text.as_bytes(), Path::new("/m/web.yaml"), "node-1", Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_manifest_becomes_a_complete_pod_of_this_node() {
        let pod = parsed(POD).expect("a pod").pod;
        let (meta, spec) = (&pod.metadata, pod.spec.as_ref().expect("a spec"));
        assert_eq!(meta.name.as_deref(), Some("web-node-1"));
        assert_eq!(meta.namespace.as_deref(), Some("default"));
        assert_eq!(meta.uid.as_ref().map(String::len), Some(32));
        let annotations = meta.annotations.as_ref().expect("annotations");
        assert_eq!(annotations.get(HASH), meta.uid.as_ref());
        assert_eq!(annotations[SEEN], "1970-01-01T00:00:00Z");
        assert_eq!(annotations[SOURCE], FILE);
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(1));
        assert_eq!(pod.status.and_then(|status| status.phase).as_deref(), Some("Pending"));
    }

    #[test]
    fn the_uid_follows_the_content_the_node_and_the_path() {
        let uid = |text: &str, path: &str, node: &str, now| {
            let parsed = parse(text.as_bytes(), Path::new(path), node, now).expect("a pod");
            parsed.pod.metadata.uid.expect("a uid")
        };
        let first = uid(POD, "/m/a", "n", Timestamp::UNIX_EPOCH);
        assert_eq!(uid(&format!("# A comment\n{POD}"), "/m/a", "n", Timestamp::MAX), first);
        assert_ne!(uid(&POD.replace("web:1", "web:2"), "/m/a", "n", Timestamp::UNIX_EPOCH), first);
        assert_ne!(uid(POD, "/m/b", "n", Timestamp::UNIX_EPOCH), first);
        assert_ne!(uid(POD, "/m/a", "m", Timestamp::UNIX_EPOCH), first);
    }

    #[test]
    fn an_error_says_what_is_wrong_with_the_file() {
        for (text, wanted) in [
            ("a: [", "couldn't parse as pod: "),
            ("apiVersion: apps/v1\nkind: Deployment\n", "couldn't parse as pod: it is a apps/v1 Deployment"),
            (&POD.replace("{name: web}", "{}"), "invalid pod: name is needed for the pod"),
            (&POD.replace("image: \"web:1\"", "command: 5"), "couldn't parse as pod: "),
            (&POD.replace(", image: \"web:1\"", ""), "invalid pod: spec.containers[0].image: Required value"),
            (&format!("{POD}  serviceAccountName: robot\n"), "static pods may not reference serviceaccounts"),
            (
                &format!("{POD}  volumes: [{{name: s, secret: {{secretName: s}}}}]\n"),
                "static pods may not reference secrets",
            ),
        ] {
            let error = parsed(text).expect_err(wanted).to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
        let unknown = parsed(&format!("{POD}  colour: red\n")).expect("a pod").unknown;
        assert_eq!(unknown.len(), 1, "{unknown:?}");
    }
}

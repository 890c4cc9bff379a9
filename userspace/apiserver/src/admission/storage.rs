//! Storage: DefaultStorageClass sets the class of claims; PersistentVolumeClaimResize refuses to grow what cannot;
//! StorageObjectInUseProtection adds the finalizers that keep what is in use.

use serde_json::{Value, json};
use skep_api::resources::quantity;
use skep_api::{Status, meta};

use super::request::{Operation, Request};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The marks of the default class, the present one first.
pub(crate) const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) fn admit(request: &Request<'_>, object: &mut Value) {
    protect(request, object);
    set_class(request, object);
}

/// StorageObjectInUseProtection. The controllers of the same names remove the finalizers.
fn protect(request: &Request<'_>, object: &mut Value) {
    const PROTECTED: [(&str, &str, &str); 3] = [
        ("", "persistentvolumes", "kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
    ];
    let row = PROTECTED.iter().find(|(group, plural, _)| request.creates(group, plural));
    let Some((_, _, finalizer)) = row else { return };
    let finalizers = meta::of_mut(object).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|other| other == finalizer)
    {
        finalizers.push((*finalizer).into());
    }
}

/// DefaultStorageClass.
fn set_class(request: &Request<'_>, claim: &mut Value) {
    let beta = &claim["metadata"]["annotations"][BETA_CLASS];
    if !request.creates("", "persistentvolumeclaims")
        || beta.is_string()
        || !claim["spec"]["storageClassName"].is_null()
    {
        return;
    }
    let classes = request.list("storage.k8s.io", "v1", "storageclasses", "");
    if let Some(name) = newest_default(classes.iter().map(|class| class.value()), &DEFAULT_CLASS) {
        claim["spec"]["storageClassName"] = name.into();
    }
}

/// The newest class with the default annotation; the first by name among classes of the same age.
pub(crate) fn newest_default(classes: impl Iterator<Item = Value>, marks: &[&str]) -> Option<String> {
    let marked =
        classes.filter(|class| marks.iter().any(|mark| class["metadata"]["annotations"][*mark] == "true"));
    let text = |class: &Value, field: &str| class["metadata"][field].as_str().unwrap_or_default().to_owned();
    let newest = marked.max_by(|a, b| {
        let age = text(a, "creationTimestamp").cmp(&text(b, "creationTimestamp"));
        age.then_with(|| text(b, "name").cmp(&text(a, "name")))
    });
    newest.map(|class| text(&class, "name"))
}

/// PersistentVolumeClaimResize.
pub(super) fn validate(request: &Request<'_>, claim: &Value) -> Result<(), Status> {
    if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Update {
        return Ok(());
    }
    let Some(old) = request.old else { return Ok(()) };
    let size =
        |claim: &Value| quantity(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default();
    if size(claim) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(request.forbidden(claim, "Only bound persistent volume claims can be expanded"));
    }
    let class = class_of(claim);
    let known = request.get("storage.k8s.io", "v1", "storageclasses", "", class);
    let grows = known.is_some_and(|class| class.value()["allowVolumeExpansion"] == true);
    if class.is_empty() || class != class_of(old) || !grows {
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        return Err(request.forbidden(claim, why));
    }
    Ok(())
}

fn class_of(claim: &Value) -> &str {
    let beta = claim["metadata"]["annotations"][BETA_CLASS].as_str();
    beta.or_else(|| claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_class_is_taken() {
        let class = |name: &str, made: &str, mark: &str| json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {DEFAULT_CLASS[0]: mark}}});
        let all = [
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("a", "2026-01-02T00:00:00Z", "true"),
            class("not", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(newest_default(all.into_iter(), &DEFAULT_CLASS).as_deref(), Some("a"));
        assert_eq!(newest_default(std::iter::empty(), &DEFAULT_CLASS), None);
    }
}

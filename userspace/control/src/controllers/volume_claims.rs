//! The claims that a pod uses, those of its ephemeral volumes among them. PURE.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};

use crate::meta;

/// The name of the claim behind a volume: the one that it names, or that of its ephemeral volume.
pub(crate) fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", meta::name(&pod.metadata), volume.name)),
        (None, None) => None,
    }
}

/// The names of the claims that a pod mounts.
pub(crate) fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| claim_name(pod, volume))
}

/// Whether the claim of an ephemeral volume was made for this pod.
pub(crate) fn is_owned_by(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owner = meta::controller_of(&claim.metadata);
    owner.is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// Why another claim of that name is not the pod's, in upstream's words.
pub(crate) fn not_owner(pod: &Pod, claim: &str) -> String {
    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    format!("PVC \"{namespace}/{claim}\" was not created for pod \"{namespace}/{name}\" (pod is not owner)")
}

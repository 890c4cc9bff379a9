//! What becomes of a StatefulSet's claims (persistentVolumeClaimRetentionPolicy, KEP-1847): they are owned by the set if they
//! go with it, and by a pod beyond the set's size if they go with that pod. PURE.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::cache::Kind;
use crate::meta;

/// Whether claims are deleted with their set, and with a pod that is scaled away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    delete_with_set: bool,
    delete_with_pod: bool,
}

impl Retention {
    pub(super) fn of(set: &StatefulSet) -> Retention {
        let policy =
            set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |text: Option<&String>| text.is_some_and(|text| text == "Delete");
        Retention {
            delete_with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
            delete_with_pod: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        }
    }

    /// The owner of a claim; `within`: its pod is within the set's size.
    fn owner(self, set: &StatefulSet, pod: &ObjectMeta, within: bool) -> Option<OwnerReference> {
        if self.delete_with_pod && !within {
            return Some(meta::controlled_by(Kind::Pod, pod));
        }
        self.delete_with_set.then(|| meta::controlled_by(Kind::StatefulSet, &set.metadata))
    }

    /// Sets the owner of a new claim, whose pod is within the set's size.
    pub(super) fn own(self, set: &StatefulSet, claim: &mut PersistentVolumeClaim) {
        let owner = self.owner(set, &ObjectMeta::default(), true);
        claim.metadata.owner_references = owner.map(|owner| vec![owner]);
    }

    /// The claim with the owner that it should have; `None` if it has it, or if others manage it.
    pub(super) fn corrected(
        self,
        set: &StatefulSet,
        pod: &Pod,
        within: bool,
        claim: &PersistentVolumeClaim,
    ) -> Option<PersistentVolumeClaim> {
        let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
        let of_set = |owner: &OwnerReference| is_named(owner, Kind::StatefulSet, &set.metadata);
        let of_pod = |owner: &OwnerReference| is_named(owner, Kind::Pod, &pod.metadata);
        let uids = [set.metadata.uid.as_deref(), pod.metadata.uid.as_deref()];
        let is_stale = |owner: &OwnerReference| !uids.contains(&Some(owner.uid.as_str()));
        // An earlier set or pod of the name owns it: it is the garbage collector's.
        if owners.iter().any(|owner| (of_set(owner) || of_pod(owner)) && is_stale(owner)) {
            return None;
        }
        let ours = |owner: &OwnerReference| of_set(owner) || of_pod(owner);
        let mut wanted: Vec<OwnerReference> = owners.iter().filter(|owner| !ours(owner)).cloned().collect();
        let is_foreign = wanted.iter().any(|owner| owner.controller == Some(true));
        if !is_foreign {
            wanted.extend(self.owner(set, &pod.metadata, within));
        }
        if wanted == owners {
            return None;
        }
        let mut corrected = claim.clone();
        corrected.metadata.owner_references = Some(wanted).filter(|owners| !owners.is_empty());
        Some(corrected)
    }

    /// Whether the claim goes with an earlier pod of this name: its successor waits for a new claim.
    pub(super) fn is_stale(self, pod: &str, claim: &PersistentVolumeClaim) -> bool {
        let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
        meta::terminating(&claim.metadata)
            || self.delete_with_pod
                && owners.iter().any(|owner| owner.kind == Kind::Pod.name() && owner.name == pod)
    }
}

fn is_named(owner: &OwnerReference, kind: Kind, meta: &ObjectMeta) -> bool {
    owner.kind == kind.name() && owner.api_version == kind.api_version() && owner.name == meta::name(meta)
}

//! The volumes of pods: which nodes they allow, and what is written before a pod can be bound. PURE.
//!
//! In: changes of claims, volumes and classes. A bound claim allows the nodes that its volume reaches. A claim that waits for
//! its first consumer allows the nodes for which a volume is free or can be provisioned; the choice of a node becomes a
//! [`VolumePlan`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_api::local_path::{FOLDER_ANNOTATION, PROVISIONER};

use super::reason::Reason;
use crate::cache::{Change, Key, Object};
use crate::controllers::persistent_volume::matching::{
    NO_PROVISIONER, SELECTED_NODE, Seeker, best, claim_ref, class_of_claim, class_of_volume, is_bound,
    is_delayed, is_in_zone, reaches, requested, reserve, volume_name,
};
use crate::controllers::volume_claims::{claim_name, claim_names, is_owned_by, not_owner};
use crate::meta;

/// What must be written, and then completed by the binder, before the pod is bound.
#[derive(Clone, Debug, Default)]
pub struct VolumePlan {
    /// Volumes that are reserved for their claims.
    pub volumes: Vec<PersistentVolume>,
    /// Claims with the node for which a volume is provisioned.
    pub claims: Vec<PersistentVolumeClaim>,
}

/// Why no node can take a pod, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClaimProblem {
    #[error("persistentvolumeclaim {0:?} not found")]
    Missing(String),
    #[error("waiting for ephemeral volume controller to create the persistentvolumeclaim {0:?}")]
    NotMade(String),
    #[error("{0}")]
    NotOwner(String),
    #[error("persistentvolumeclaim {claim:?} bound to non-existent persistentvolume {volume:?}")]
    Lost { claim: String, volume: String },
    #[error("persistentvolumeclaim {0:?} is being deleted")]
    Terminating(String),
    #[error("pod has unbound immediate PersistentVolumeClaims")]
    Unbound,
}

/// How far the volumes of a pod with a chosen node are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Bound,
    Waiting,
    /// The pod needs another node.
    Failed(String),
}

/// Claims, volumes and classes, with the plans that are not written yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Volumes {
    claims: HashMap<Key, Arc<PersistentVolumeClaim>>,
    volumes: HashMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// Names of the volumes without a complete claim, by class.
    free: HashMap<String, BTreeSet<String>>,
    /// Names of the volumes of a claim, by its uid.
    of_claim: HashMap<String, BTreeSet<String>>,
    /// Number of placed pods that use a claim.
    users: HashMap<Key, usize>,
    /// Volumes that plans reserve.
    taken: BTreeSet<String>,
    /// The nodes that plans select for claims.
    selected: HashMap<Key, Arc<str>>,
}

/// The volumes of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct PodVolumes {
    /// Volumes of bound claims; `None` if it does not exist.
    bound: Vec<Option<Arc<PersistentVolume>>>,
    /// Claims that wait for this pod, by size.
    waiting: Vec<WaitingClaim>,
    /// Claims that only one pod may use.
    pub(super) exclusive: Vec<Key>,
    /// Volumes that the plans of other pods reserve.
    taken: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct WaitingClaim {
    claim: Arc<PersistentVolumeClaim>,
    class: Option<Arc<StorageClass>>,
    /// Where its volume is being provisioned.
    selected: Option<Arc<str>>,
    candidates: Vec<Arc<PersistentVolume>>,
}

fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// An answer to a write may come before the event of an earlier version.
fn is_newer(known: Option<&ObjectMeta>, new: &ObjectMeta) -> bool {
    known.is_none_or(|known| known.uid != new.uid || revision(known) <= revision(new))
}

impl Volumes {
    /// Applies a change; whether it was one of a claim, a volume or a class.
    pub(super) fn apply(&mut self, change: &Change) -> bool {
        match (&change.new, &change.old) {
            (Some(Object::PersistentVolumeClaim(claim)), _) => {
                let key = Key::of(&claim.metadata);
                if is_newer(self.claims.get(&key).map(|known| &known.metadata), &claim.metadata) {
                    self.claims.insert(key, claim.clone());
                }
            }
            (None, Some(Object::PersistentVolumeClaim(claim))) => {
                self.claims.remove(&Key::of(&claim.metadata));
            }
            (Some(Object::PersistentVolume(volume)), _) => {
                let name = meta::name(&volume.metadata);
                if is_newer(self.volumes.get(name).map(|known| &known.metadata), &volume.metadata) {
                    self.remove_volume(name);
                    self.insert_volume(volume.clone());
                }
            }
            (None, Some(Object::PersistentVolume(volume))) => {
                self.remove_volume(meta::name(&volume.metadata))
            }
            (Some(Object::StorageClass(class)), _) => {
                self.classes.insert(meta::name(&class.metadata).to_owned(), class.clone());
            }
            (None, Some(Object::StorageClass(class))) => {
                self.classes.remove(meta::name(&class.metadata));
            }
            _ => return false,
        }
        true
    }

    fn insert_volume(&mut self, volume: Arc<PersistentVolume>) {
        let name = meta::name(&volume.metadata).to_owned();
        match uid_of_claim(&volume) {
            Some(uid) => self.of_claim.entry(uid.to_owned()).or_default().insert(name.clone()),
            None => self.free.entry(class_of_volume(&volume).to_owned()).or_default().insert(name.clone()),
        };
        self.volumes.insert(name, volume);
    }

    fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        let (index, of) = match uid_of_claim(&volume) {
            Some(uid) => (&mut self.of_claim, uid),
            None => (&mut self.free, class_of_volume(&volume)),
        };
        if let Some(names) = index.get_mut(of) {
            names.remove(name);
            if names.is_empty() {
                index.remove(of);
            }
        }
    }

    /// A pod came to a node.
    pub(super) fn pod_placed(&mut self, pod: &Pod) {
        for name in claim_names(pod) {
            *self.users.entry(Key::new(meta::namespace(&pod.metadata), &name)).or_default() += 1;
        }
    }

    /// A pod left its node.
    pub(super) fn pod_gone(&mut self, pod: &Pod) {
        for name in claim_names(pod) {
            let key = Key::new(meta::namespace(&pod.metadata), &name);
            if let Some(count) = self.users.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.users.remove(&key);
                }
            }
        }
    }

    /// Whether another pod uses one of the claims that only one may use.
    pub(super) fn is_in_use(&self, exclusive: &[Key]) -> bool {
        exclusive.iter().any(|key| self.users.contains_key(key))
    }

    /// The volumes of a pod, unless a claim keeps it from every node.
    pub(super) fn of_pod(&self, pod: &Pod) -> Result<PodVolumes, ClaimProblem> {
        let mut found = PodVolumes::default();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut immediate = false;
        for volume in volumes {
            let Some(name) = claim_name(pod, volume) else { continue };
            let key = Key::new(meta::namespace(&pod.metadata), &name);
            let is_ephemeral = volume.persistent_volume_claim.is_none();
            let Some(claim) = self.claims.get(&key) else {
                return Err(match is_ephemeral {
                    true => ClaimProblem::NotMade(name),
                    false => ClaimProblem::Missing(name),
                });
            };
            check_claim(pod, claim, is_ephemeral)?;
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                found.exclusive.push(key.clone());
            }
            let class = self.classes.get(class_of_claim(claim));
            if is_bound(claim) && !volume_name(claim).is_empty() {
                found.bound.push(self.volumes.get(volume_name(claim)).cloned());
            } else if is_delayed(class) && volume_name(claim).is_empty() {
                found.waiting.push(self.waiting(&key, claim, class));
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err(ClaimProblem::Unbound);
        }
        if !found.waiting.is_empty() {
            found.taken.clone_from(&self.taken);
        }
        found.waiting.sort_by_key(|waiting| requested(&waiting.claim));
        Ok(found)
    }

    fn waiting(
        &self,
        key: &Key,
        claim: &Arc<PersistentVolumeClaim>,
        class: Option<&Arc<StorageClass>>,
    ) -> WaitingClaim {
        let own = self.of_claim.get(meta::uid(&claim.metadata));
        let names = own.or_else(|| self.free.get(class_of_claim(claim)));
        let candidates = names.into_iter().flatten().filter_map(|name| self.volumes.get(name)).cloned();
        let annotated = meta::annotation(&claim.metadata, SELECTED_NODE).map(Arc::from);
        WaitingClaim {
            claim: claim.clone(),
            class: class.cloned(),
            selected: annotated.or_else(|| self.selected.get(key).cloned()),
            candidates: candidates.collect(),
        }
    }

    /// Keeps what a plan takes from other pods, until `finish`.
    pub(super) fn begin(&mut self, plan: &VolumePlan, node: &Arc<str>) {
        self.taken.extend(plan.volumes.iter().map(|volume| meta::name(&volume.metadata).to_owned()));
        self.selected.extend(plan.claims.iter().map(|claim| (Key::of(&claim.metadata), node.clone())));
    }

    /// The plan is written and completed, or given up.
    pub(super) fn finish(&mut self, plan: &VolumePlan) {
        for volume in &plan.volumes {
            self.taken.remove(meta::name(&volume.metadata));
        }
        for claim in &plan.claims {
            self.selected.remove(&Key::of(&claim.metadata));
        }
    }

    /// How far the volumes of a pod are whose plan for this node was written.
    pub(super) fn progress(&self, pod: &Pod, node: &Node) -> Progress {
        let volumes = match self.of_pod(pod) {
            Ok(volumes) => volumes,
            Err(why) => return Progress::Failed(why.to_string()),
        };
        // The event of a new volume may come after that of its claim.
        if volumes.bound.iter().any(Option::is_none) {
            return Progress::Waiting;
        }
        if let Some(reason) = volumes.bound_reasons(node).first() {
            return Progress::Failed(reason.to_string());
        }
        let name = meta::name(&node.metadata);
        for waiting in &volumes.waiting {
            let claim = meta::name(&waiting.claim.metadata);
            let reserved = waiting.candidates.iter().any(|volume| uid_of_claim(volume).is_some());
            match waiting.selected.as_deref() {
                Some(selected) if selected == name => {}
                None if reserved => {}
                _ => return Progress::Failed(format!("provisioning failed for PVC {claim:?}")),
            }
        }
        if volumes.waiting.is_empty() { Progress::Bound } else { Progress::Waiting }
    }
}

/// The uid of the claim that the volume is reserved for.
fn uid_of_claim(volume: &PersistentVolume) -> Option<&str> {
    claim_ref(volume)?.uid.as_deref().filter(|uid| !uid.is_empty())
}

fn check_claim(pod: &Pod, claim: &PersistentVolumeClaim, is_ephemeral: bool) -> Result<(), ClaimProblem> {
    let name = meta::name(&claim.metadata);
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        let volume = volume_name(claim).to_owned();
        return Err(ClaimProblem::Lost { claim: name.to_owned(), volume });
    }
    if meta::terminating(&claim.metadata) {
        return Err(ClaimProblem::Terminating(name.to_owned()));
    }
    if is_ephemeral && !is_owned_by(claim, pod) {
        return Err(ClaimProblem::NotOwner(not_owner(pod, name)));
    }
    Ok(())
}

impl PodVolumes {
    /// Why pods of the node cannot use the volumes; empty if they can.
    pub(super) fn check(&self, node: &Node) -> Vec<Reason> {
        let mut reasons = self.bound_reasons(node);
        if self.plan(node).is_none() {
            reasons.push(Reason::NoVolume);
        }
        reasons
    }

    fn bound_reasons(&self, node: &Node) -> Vec<Reason> {
        let present = || self.bound.iter().flatten();
        let mut reasons = Vec::new();
        if present().any(|volume| !reaches(volume, node)) {
            reasons.push(Reason::VolumeNode);
        }
        if self.bound.iter().any(Option::is_none) {
            reasons.push(Reason::VolumeGone);
        }
        if reasons.is_empty() && present().any(|volume| !is_in_zone(volume, node)) {
            reasons.push(Reason::VolumeZone);
        }
        reasons
    }

    /// Whether every claim is bound.
    pub(super) fn are_bound(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What to write so that the pod gets its volumes on the node. `None`: it cannot.
    pub(super) fn plan(&self, node: &Node) -> Option<VolumePlan> {
        let name = meta::name(&node.metadata);
        let mut plan = VolumePlan::default();
        let mut taken = self.taken.clone();
        for waiting in &self.waiting {
            if let Some(selected) = &waiting.selected {
                if **selected != *name {
                    return None;
                }
                continue;
            }
            let seeker = Seeker::Scheduler { node, taken: &taken };
            if let Some(volume) = best(&waiting.claim, waiting.candidates.iter(), seeker) {
                let reserved = reserve(volume, &waiting.claim);
                taken.insert(meta::name(&volume.metadata).to_owned());
                plan.volumes.extend(reserved);
            } else if waiting.can_provision(node) {
                let mut claim = PersistentVolumeClaim::clone(&waiting.claim);
                let annotations: &mut BTreeMap<String, String> =
                    claim.metadata.annotations.get_or_insert_default();
                annotations.insert(SELECTED_NODE.to_owned(), name.to_owned());
                plan.claims.push(claim);
            } else {
                return None;
            }
        }
        Some(plan)
    }
}

impl WaitingClaim {
    fn can_provision(&self, node: &Node) -> bool {
        let Some(class) = &self.class else { return false };
        // A volume that is reserved for the claim is elsewhere.
        let has_own = self.candidates.iter().any(|volume| uid_of_claim(volume).is_some());
        if has_own || class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER {
            return false;
        }
        if class.provisioner == PROVISIONER && meta::annotation(&node.metadata, FOLDER_ANNOTATION).is_none() {
            return false;
        }
        let terms = class.allowed_topologies.as_deref().unwrap_or_default();
        terms.is_empty()
            || terms.iter().any(|term| {
                term.match_label_expressions.iter().flatten().all(|expression| {
                    let value = meta::label(&node.metadata, &expression.key);
                    value.is_some_and(|value| expression.values.iter().any(|wanted| wanted == value))
                })
            })
    }
}

//! One claim: bound to a volume that suits it, provisioned, or pending with an Event that says why. PURE.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, Seeker, best, capacity, claim_ref, class,
    class_of_claim, is_bound, is_delayed, is_reserved_for, mismatch, requested, reserve, volume_name,
    wants_default_class,
};
use super::record::claim_event;
use super::{provision, volume};
use crate::action::{Action, Context};
use crate::cache::{Key, Kind, View};
use crate::controllers::pods::{finished, node_name};
use crate::controllers::volume_claims::claim_names;
use crate::meta;

const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) fn sync(view: &View, claim: &Arc<PersistentVolumeClaim>, context: Context<'_>) -> Vec<Action> {
    let named = view.volumes.get(&Key::cluster(volume_name(claim)));
    if is_bound(claim) {
        return sync_bound(view, claim, named, context);
    }
    if meta::terminating(&claim.metadata) {
        return Vec::new();
    }
    if volume_name(claim).is_empty() {
        sync_free(view, claim, context)
    } else {
        sync_naming(claim, named, context)
    }
}

/// A claim that was bound before.
fn sync_bound(
    view: &View,
    claim: &Arc<PersistentVolumeClaim>,
    volume: Option<&Arc<PersistentVolume>>,
    context: Context<'_>,
) -> Vec<Action> {
    if volume_name(claim).is_empty() {
        let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lose(claim, "ClaimLost", message);
    }
    let Some(volume) = volume else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lose(claim, "ClaimLost", message);
    };
    match claim_ref(volume) {
        Some(of) if of.uid != claim.metadata.uid => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            lose(claim, "ClaimMisbound", message)
        }
        _ => {
            let actions = bind(volume, claim, context);
            if actions.is_empty() { expand(view, claim, volume) } else { actions }
        }
    }
}

fn lose(claim: &Arc<PersistentVolumeClaim>, reason: &'static str, message: &str) -> Vec<Action> {
    let status = PersistentVolumeClaimStatus { phase: Some("Lost".to_owned()), ..status_of(claim) };
    let status = PersistentVolumeClaimStatus { access_modes: None, capacity: None, ..status };
    if claim.status.as_ref() == Some(&status) {
        return Vec::new();
    }
    vec![set_status(claim, &status), claim_event(claim, true, reason, message)]
}

fn status_of(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimStatus {
    claim.status.clone().unwrap_or_default()
}

fn set_status(claim: &PersistentVolumeClaim, status: &PersistentVolumeClaimStatus) -> Action {
    let key = Key::of(&claim.metadata);
    Action::patch_status(Kind::PersistentVolumeClaim, key, claim.status.as_ref(), status)
}

/// A claim that names its volume.
fn sync_naming(
    claim: &Arc<PersistentVolumeClaim>,
    volume: Option<&Arc<PersistentVolume>>,
    context: Context<'_>,
) -> Vec<Action> {
    let name = volume_name(claim);
    let mut actions = match volume {
        None => Vec::new(),
        Some(volume) if is_reserved_for(volume, claim) => return bind(volume, claim, context),
        Some(volume) if claim_ref(volume).is_some() => {
            let message = format!("volume {name:?} already bound to a different claim.");
            vec![claim_event(claim, true, "FailedBinding", message)]
        }
        Some(volume) => match mismatch(volume, claim) {
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                vec![claim_event(claim, true, "VolumeMismatch", message)]
            }
            None => return bind(volume, claim, context),
        },
    };
    actions.extend(pending(claim));
    actions
}

/// A claim that takes any volume that suits it.
fn sync_free(view: &View, claim: &Arc<PersistentVolumeClaim>, context: Context<'_>) -> Vec<Action> {
    let class = class(&view.storage_classes, class_of_claim(claim));
    let delayed = is_delayed(class);
    let volumes = view.volumes.iter().map(|(_, volume)| volume);
    if let Some(volume) = best(claim, volumes, Seeker::Binder { delayed }) {
        return bind(volume, claim, context);
    }
    if let Some(default) = default_class(view).filter(|_| wants_default_class(claim)) {
        let mut assigned = PersistentVolumeClaim::clone(claim);
        assigned.spec.get_or_insert_default().storage_class_name = Some(default.to_owned());
        return vec![Action::update(assigned)];
    }
    let selected = meta::annotation(&claim.metadata, SELECTED_NODE);
    let mut actions = if delayed && selected.is_none() {
        vec![wait_for_consumer(view, claim)]
    } else if class_of_claim(claim).is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        vec![claim_event(claim, false, "FailedBinding", message)]
    } else {
        provision::provision(view, claim, class)
    };
    actions.extend(pending(claim));
    actions
}

/// The class that claims without one get: the newest with the annotation, the first by name among equals.
fn default_class(view: &View) -> Option<&str> {
    let is_default = |class: &StorageClass| {
        DEFAULT_CLASS.iter().any(|mark| meta::annotation(&class.metadata, mark) == Some("true"))
    };
    let marked = view.storage_classes.iter().map(|(_, class)| class).filter(|class| is_default(class));
    let newest = marked.max_by(|a, b| {
        let age = meta::created(&a.metadata).cmp(&meta::created(&b.metadata));
        age.then_with(|| b.metadata.name.cmp(&a.metadata.name))
    });
    newest.map(|class| meta::name(&class.metadata))
}

fn wait_for_consumer(view: &View, claim: &Arc<PersistentVolumeClaim>) -> Action {
    let (namespace, name) = (meta::namespace(&claim.metadata), meta::name(&claim.metadata));
    let pods = view.pods.in_namespace(namespace).map(|(_, pod)| pod);
    let waiting = pods.filter(|pod| {
        node_name(pod).is_empty() && !finished(pod) && claim_names(pod).any(|claim| claim == name)
    });
    let waiting: Vec<&str> = waiting.map(|pod| meta::name(&pod.metadata)).collect();
    let (reason, message) = match waiting.as_slice() {
        [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
        [one] => ("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        several => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", several.join(","))),
    };
    claim_event(claim, false, reason, message)
}

fn pending(claim: &PersistentVolumeClaim) -> Option<Action> {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let status = PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..status_of(claim) };
    (phase != Some("Pending")).then(|| set_status(claim, &status))
}

/// Binds both ends. The volume's end comes first: the claim follows when that is written.
fn bind(
    volume: &Arc<PersistentVolume>,
    claim: &Arc<PersistentVolumeClaim>,
    context: Context<'_>,
) -> Vec<Action> {
    if let Some(reserved) = reserve(volume, claim) {
        return vec![Action::update(reserved)];
    }
    let mut actions: Vec<Action> =
        volume::set_phase(volume, "Bound", None, context.now).into_iter().collect();
    let name = meta::name(&volume.metadata);
    let mut bound = PersistentVolumeClaim::clone(claim);
    let annotations = bound.metadata.annotations.get_or_insert_default();
    if volume_name(claim) != name {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    bound.spec.get_or_insert_default().volume_name = Some(name.to_owned());
    if bound != **claim {
        actions.push(Action::update(bound));
    }
    let status = bound_status(volume, claim);
    if claim.status.as_ref() != Some(&status) {
        actions.push(set_status(claim, &status));
    }
    actions
}

/// The size is that of the volume when the claim becomes bound; later ones are set by who expands it.
fn bound_status(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolumeClaimStatus {
    let mut status = status_of(claim);
    let spec = volume.spec.as_ref();
    if status.phase.as_deref() != Some("Bound") {
        status.capacity = spec.and_then(|spec| spec.capacity.clone());
        status.current_volume_attributes_class_name =
            spec.and_then(|spec| spec.volume_attributes_class_name.clone()).filter(|name| !name.is_empty());
    }
    status.phase = Some("Bound".to_owned());
    status.access_modes = spec.and_then(|spec| spec.access_modes.clone());
    status
}

/// A bound claim that asks for more. The built-in provisioner gives it; others learn of it by themselves.
fn expand(view: &View, claim: &Arc<PersistentVolumeClaim>, volume: &Arc<PersistentVolume>) -> Vec<Action> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let Some(wanted) = wanted.and_then(|resources| resources.requests.as_ref()?.get("storage")) else {
        return Vec::new();
    };
    let given = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
    let given = given.and_then(|given| given.0.parse().ok()).unwrap_or_default();
    if requested(claim) <= given || meta::terminating(&claim.metadata) {
        return Vec::new();
    }
    let class = class(&view.storage_classes, class_of_claim(claim));
    if class.is_none_or(|class| class.allow_volume_expansion != Some(true)) {
        return Vec::new();
    }
    if !provision::is_ours(volume) {
        let message = "waiting for an external controller to expand this PVC";
        return vec![claim_event(claim, false, "ExternalExpanding", message)];
    }
    if capacity(volume) < requested(claim) {
        let mut grown = PersistentVolume::clone(volume);
        let capacity = grown.spec.get_or_insert_default().capacity.get_or_insert_default();
        capacity.insert("storage".to_owned(), wanted.clone());
        return vec![Action::update(grown)];
    }
    let mut status = status_of(claim);
    status.capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.clone());
    vec![
        set_status(claim, &status),
        claim_event(claim, false, "VolumeResizeSuccessful", "Volume resize succeeded"),
    ]
}

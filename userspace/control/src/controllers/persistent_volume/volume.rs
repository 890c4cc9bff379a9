//! One volume: its phase, and what becomes of it when its claim is gone. PURE.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};
use skep_api::local_path::PROVISIONED_BY;

use super::matching::{BOUND_BY_CONTROLLER, claim_ref, modes_differ, phase, volume_name};
use super::provision;
use super::record::{claim_event, volume_event};
use crate::action::{Action, Context};
use crate::cache::{Key, Kind, Object, View};
use crate::meta;

pub(super) fn sync(view: &View, volume: &Arc<PersistentVolume>, context: Context<'_>) -> Vec<Action> {
    let available = || set_phase(volume, "Available", None, context.now).into_iter().collect();
    let Some(of) = claim_ref(volume) else { return available() };
    // Reserved for a claim that is not bound yet: the claim completes it.
    let Some(uid) = of.uid.as_deref().filter(|uid| !uid.is_empty()) else { return available() };
    let key = Key::new(of.namespace.as_deref().unwrap_or_default(), of.name.as_deref().unwrap_or_default());
    // An unreadable claim is not a missing one.
    if view.claims.is_unreadable(&key) {
        return Vec::new();
    }
    let claim = match view.claims.get(&key) {
        Some(claim) if meta::uid(&claim.metadata) == uid => claim,
        // Another claim has the name by now.
        Some(_) => return release(volume, None, context),
        // The view may lag, and a release is final: the server is asked first.
        None => return release(volume, Some(&key), context),
    };
    match volume_name(claim) {
        "" => mode_mismatch(volume, claim),
        name if name == meta::name(&volume.metadata) => {
            set_phase(volume, "Bound", None, context.now).into_iter().collect()
        }
        _ => bound_elsewhere(volume, context),
    }
}

/// The claim's own reconcile binds it, unless the modes differ.
fn mode_mismatch(volume: &Arc<PersistentVolume>, claim: &Arc<PersistentVolumeClaim>) -> Vec<Action> {
    if !modes_differ(volume, claim) {
        return Vec::new();
    }
    let of_volume = format!(
        "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
        meta::name(&claim.metadata)
    );
    let of_claim = format!(
        "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
        meta::name(&volume.metadata)
    );
    vec![
        volume_event(volume, true, "VolumeMismatch", of_volume),
        claim_event(claim, true, "VolumeMismatch", of_claim),
    ]
}

/// The claim has another volume.
fn bound_elsewhere(volume: &Arc<PersistentVolume>, context: Context<'_>) -> Vec<Action> {
    let provisioned = meta::annotation(&volume.metadata, PROVISIONED_BY).is_some();
    if provisioned && policy(volume) == "Delete" {
        return release(volume, None, context);
    }
    let mut free = PersistentVolume::clone(volume);
    let by_controller =
        free.metadata.annotations.as_mut().and_then(|annotations| annotations.remove(BOUND_BY_CONTROLLER));
    if let Some(spec) = &mut free.spec {
        match by_controller {
            Some(_) => spec.claim_ref = None,
            // An administrator reserved it for a claim of that name.
            None => spec.claim_ref.iter_mut().for_each(|of| of.uid = None),
        }
    }
    vec![Action::update(free)]
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// The claim is gone; `unsure`: unless the server still has it. A failed volume stays failed.
fn release(volume: &Arc<PersistentVolume>, unsure: Option<&Key>, context: Context<'_>) -> Vec<Action> {
    if !matches!(phase(volume), "Released" | "Failed") {
        let ensure =
            unsure.map(|key| Action::EnsureMissing { kind: Kind::PersistentVolumeClaim, key: key.clone() });
        return ensure.into_iter().chain(set_phase(volume, "Released", None, context.now)).collect();
    }
    match policy(volume) {
        "Retain" => Vec::new(),
        "Recycle" => fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!", context),
        "Delete" => delete(volume, context),
        _ => {
            let message = "Volume has unrecognized PersistentVolumeReclaimPolicy";
            fail(volume, "VolumeUnknownReclaimPolicy", message, context)
        }
    }
}

/// Deletes a volume of the built-in class; its node removes the folder before the object goes. Volumes of other
/// provisioners are theirs to delete.
fn delete(volume: &Arc<PersistentVolume>, context: Context<'_>) -> Vec<Action> {
    if meta::terminating(&volume.metadata) {
        return Vec::new();
    }
    if provision::is_ours(volume) {
        return vec![Action::delete(Object::PersistentVolume(volume.clone()))];
    }
    if meta::annotation(&volume.metadata, PROVISIONED_BY).is_some() {
        return Vec::new();
    }
    let message = format!(
        "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
        meta::name(&volume.metadata)
    );
    fail(volume, "VolumeFailedDelete", &message, context)
}

fn fail(
    volume: &Arc<PersistentVolume>,
    reason: &'static str,
    message: &str,
    context: Context<'_>,
) -> Vec<Action> {
    let failed = set_phase(volume, "Failed", Some(message), context.now);
    failed.into_iter().flat_map(|action| [action, volume_event(volume, true, reason, message)]).collect()
}

/// Sets the phase; `None` if it is set already.
pub(super) fn set_phase(
    volume: &PersistentVolume,
    wanted: &str,
    message: Option<&str>,
    now: Timestamp,
) -> Option<Action> {
    if phase(volume) == wanted {
        return None;
    }
    let status = PersistentVolumeStatus {
        phase: Some(wanted.to_owned()),
        message: message.map(str::to_owned),
        // Another writer of the status keeps its reason, as upstream.
        reason: volume.status.as_ref().and_then(|status| status.reason.clone()),
        last_phase_transition_time: Some(meta::time(now)),
    };
    let key = Key::of(&volume.metadata);
    Some(Action::patch_status(Kind::PersistentVolume, key, volume.status.as_ref(), &status))
}

//! PersistentVolumes and their claims: which claim gets which volume, volumes of the built-in class, and what becomes of a
//! released volume. In: claims, volumes, classes, pods that wait, nodes. Out: writes of claims and volumes. PURE.
//!
//! A key with a namespace is a claim's, one without is a volume's. A binding is written in two steps: first the volume's
//! `claimRef`, guarded by its version, then the claim. So two claims never get one volume, and a binding that was cut off is
//! completed by the next reconcile. Events, annotations and phases are upstream's.

mod claim;
pub(crate) mod matching;
mod provision;
mod record;
mod volume;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};

use super::pods::{finished, node_name};
use super::routing::{own_key, versions};
use super::volume_claims::claim_names;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;
use matching::{SELECTED_NODE, claim_ref, is_bound, volume_name};

pub struct PersistentVolumes;

impl Controller for PersistentVolumes {
    fn name(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn account(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn event_source(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::StorageClass, Kind::Pod, Kind::Node]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        match change.object() {
            Some(Object::PersistentVolumeClaim(_)) => claim_changed(change, view, keys),
            Some(Object::PersistentVolume(_)) => volume_changed(change, view, keys),
            // A class that is new, or a default by now.
            Some(Object::StorageClass(_)) => keys.extend(unbound_claims(view)),
            Some(Object::Pod(pod)) => pod_changed(pod, view, keys),
            Some(Object::Node(node)) => node_changed(change, node, view, keys),
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        if key.namespace.is_empty() {
            let volume = view.volumes.get(key);
            return volume.map(|volume| volume::sync(view, volume, context)).unwrap_or_default();
        }
        let claim = view.claims.get(key);
        claim.map(|claim| claim::sync(view, claim, context)).unwrap_or_default()
    }
}

fn claim_changed(change: &Change, view: &View, keys: &mut Vec<Key>) {
    own_key(change, Kind::PersistentVolumeClaim, keys);
    for version in versions(change) {
        let Object::PersistentVolumeClaim(claim) = version else { continue };
        let named = Some(volume_name(claim)).filter(|name| !name.is_empty());
        keys.extend(named.map(Key::cluster));
        let of_claim = view.volumes.indexed(meta::uid(&claim.metadata));
        keys.extend(of_claim.map(|volume| Key::of(&volume.metadata)));
    }
}

fn volume_changed(change: &Change, view: &View, keys: &mut Vec<Key>) {
    own_key(change, Kind::PersistentVolume, keys);
    for version in versions(change) {
        let Object::PersistentVolume(volume) = version else { continue };
        if let Some(of) = claim_ref(volume) {
            let namespace = of.namespace.as_deref().unwrap_or_default();
            keys.push(Key::new(namespace, of.name.as_deref().unwrap_or_default()));
        }
        let naming = view.claims.indexed(meta::name(&volume.metadata));
        keys.extend(naming.map(|claim| Key::of(&claim.metadata)));
    }
    if let Some(Object::PersistentVolume(volume)) = &change.new
        && claim_ref(volume).is_none()
    {
        keys.extend(unbound_claims(view));
    }
}

fn unbound_claims(view: &View) -> impl Iterator<Item = Key> {
    view.claims.iter().filter(|(_, claim)| !is_bound(claim)).map(|(key, _)| key.clone())
}

/// A pod that waits for a node: the Event of its unbound claims says so.
fn pod_changed(pod: &Pod, view: &View, keys: &mut Vec<Key>) {
    if !node_name(pod).is_empty() || finished(pod) {
        return;
    }
    let namespace = meta::namespace(&pod.metadata);
    let claims = claim_names(pod).map(|name| Key::new(namespace, &name));
    keys.extend(claims.filter(|key| view.claims.get(key).is_some_and(|claim| !is_bound(claim))));
}

/// A node that volumes are provisioned for: it is gone, or says now where its volumes are.
fn node_changed(change: &Change, node: &Node, view: &View, keys: &mut Vec<Key>) {
    let folder = |version: &Option<Object>| match version {
        Some(Object::Node(node)) => provision::folder(node).map(str::to_owned),
        _ => None,
    };
    if change.old.is_some() == change.new.is_some() && folder(&change.old) == folder(&change.new) {
        return;
    }
    let name = meta::name(&node.metadata);
    let selects =
        |claim: &PersistentVolumeClaim| meta::annotation(&claim.metadata, SELECTED_NODE) == Some(name);
    let waiting = view.claims.iter().filter(|(_, claim)| !is_bound(claim) && selects(claim));
    keys.extend(waiting.map(|(key, _)| key.clone()));
}

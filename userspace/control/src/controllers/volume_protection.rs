//! Claims, volumes and volume attributes classes that are in use are deleted only when nothing uses them any more: a
//! finalizer holds them until then (KEP-498 and KEP-3751). PURE.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::routing::{own_key, versions};
use super::volume_claims::{claim_names, is_owned_by};
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub struct VolumeProtection {
    /// PersistentVolumeClaim, PersistentVolume or VolumeAttributesClass.
    pub kind: Kind,
}

impl VolumeProtection {
    fn finalizer(&self) -> &'static str {
        match self.kind {
            Kind::PersistentVolume => "kubernetes.io/pv-protection",
            Kind::VolumeAttributesClass => "kubernetes.io/vac-protection",
            _ => "kubernetes.io/pvc-protection",
        }
    }

    fn is_in_use(&self, view: &View, key: &Key) -> bool {
        match self.kind {
            Kind::PersistentVolume => view.volumes.get(key).is_some_and(|volume| is_bound(volume)),
            Kind::VolumeAttributesClass => is_class_named(view, &key.name),
            _ => view
                .claims
                .get(key)
                .is_some_and(|claim| view.pods.in_namespace(&key.namespace).any(|(_, pod)| uses(pod, claim))),
        }
    }

    /// What the change may have freed.
    fn freed(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        match (self.kind, &change.old) {
            (Kind::PersistentVolumeClaim, Some(Object::Pod(pod))) => {
                let namespace = meta::namespace(&pod.metadata);
                keys.extend(claim_names(pod).map(|name| Key::new(namespace, &name)));
            }
            (
                Kind::VolumeAttributesClass,
                Some(Object::PersistentVolumeClaim(_) | Object::PersistentVolume(_)),
            ) => {
                let classes = view.volume_attributes_classes.iter();
                let waiting = classes.filter(|(_, class)| meta::terminating(&class.metadata));
                keys.extend(waiting.map(|(key, _)| key.clone()));
            }
            _ => {}
        }
    }
}

impl Controller for VolumeProtection {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::PersistentVolume => "pv-protection",
            Kind::VolumeAttributesClass => "vac-protection",
            _ => "pvc-protection",
        }
    }

    fn account(&self) -> &'static str {
        match self.kind {
            Kind::PersistentVolume => "pv-protection-controller",
            Kind::VolumeAttributesClass => "volumeattributesclass-protection-controller",
            _ => "pvc-protection-controller",
        }
    }

    fn reads(&self) -> &'static [Kind] {
        match self.kind {
            Kind::PersistentVolume => &[Kind::PersistentVolume],
            Kind::VolumeAttributesClass => {
                &[Kind::VolumeAttributesClass, Kind::PersistentVolume, Kind::PersistentVolumeClaim]
            }
            _ => &[Kind::PersistentVolumeClaim, Kind::Pod],
        }
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, self.kind, keys);
        if versions(change).next().is_some_and(|object| object.kind() != self.kind) {
            self.freed(change, view, keys);
        }
    }

    fn reconcile(&self, view: &View, key: &Key, _: Context<'_>) -> Vec<Action> {
        let Some(object) = view.get(self.kind, key) else { return Vec::new() };
        let finalizer = self.finalizer();
        let is_protected = object.meta().finalizers.iter().flatten().any(|other| other == finalizer);
        let is_wanted = !meta::terminating(object.meta()) || is_protected && self.is_in_use(view, key);
        if is_wanted == is_protected {
            return Vec::new();
        }
        with_meta(object, |meta| set_finalizer(meta, finalizer, is_wanted)).into_iter().collect()
    }
}

/// The update of an object whose metadata changed.
fn with_meta(object: Object, change: impl FnOnce(&mut ObjectMeta)) -> Option<Action> {
    match object {
        Object::PersistentVolumeClaim(mut claim) => {
            change(&mut Arc::make_mut(&mut claim).metadata);
            Some(Action::update(Object::PersistentVolumeClaim(claim)))
        }
        Object::PersistentVolume(mut volume) => {
            change(&mut Arc::make_mut(&mut volume).metadata);
            Some(Action::update(Object::PersistentVolume(volume)))
        }
        Object::VolumeAttributesClass(mut class) => {
            change(&mut Arc::make_mut(&mut class).metadata);
            Some(Action::update(Object::VolumeAttributesClass(class)))
        }
        _ => None,
    }
}

fn set_finalizer(meta: &mut ObjectMeta, finalizer: &str, is_wanted: bool) {
    let mut finalizers = meta.finalizers.take().unwrap_or_default();
    finalizers.retain(|other| other != finalizer);
    finalizers.extend(is_wanted.then(|| finalizer.to_owned()));
    meta.finalizers = Some(finalizers).filter(|all| !all.is_empty());
}

/// Whether a pod uses the claim. A pod without a node does not: a node starts no pod whose claim is being deleted.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = &pod.spec else { return false };
    if spec.node_name.is_none() {
        return false;
    }
    let name = meta::name(&claim.metadata);
    spec.volumes.iter().flatten().any(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => source.claim_name == name,
        (None, Some(_)) => {
            !has_ended(pod)
                && format!("{}-{}", meta::name(&pod.metadata), volume.name) == name
                && is_owned_by(claim, pod)
        }
        (None, None) => false,
    })
}

/// Its node is done with the pod, or it was deleted by force.
fn has_ended(pod: &Pod) -> bool {
    meta::terminating(&pod.metadata) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether a volume or a claim names the class, or is being changed to it.
fn is_class_named(view: &View, name: &str) -> bool {
    let by_claim = |claim: &PersistentVolumeClaim| {
        let status = claim.status.as_ref();
        let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
        let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
        let target = status
            .and_then(|status| status.modify_volume_status.as_ref())
            .and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
        [wanted, current, target].contains(&Some(name))
    };
    let by_volume = |volume: &PersistentVolume| {
        volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()) == Some(name)
    };
    view.claims.iter().any(|(_, claim)| by_claim(claim))
        || view.volumes.iter().any(|(_, volume)| by_volume(volume))
}

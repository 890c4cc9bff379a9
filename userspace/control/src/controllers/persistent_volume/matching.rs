//! Which volume suits which claim. Binder and scheduler share it, as upstream's do. PURE.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skep_api::fit::term_admits;
use skep_api::quantity::Quantity;

use crate::cache::Table;
use crate::cache::{Key, Kind};
use crate::meta;

pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node for which its volume is provisioned. The scheduler sets it.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes an administrator makes.
pub(crate) const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Labels of a volume that restrict its nodes, in the present and the earlier form.
const TOPOLOGY_LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

pub(crate) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let in_spec = || claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    meta::annotation(&claim.metadata, BETA_CLASS).or_else(in_spec).unwrap_or_default()
}

/// Whether the claim leaves its class to the cluster's default.
pub(super) fn wants_default_class(claim: &PersistentVolumeClaim) -> bool {
    meta::annotation(&claim.metadata, BETA_CLASS).is_none()
        && claim.spec.as_ref().is_none_or(|spec| spec.storage_class_name.is_none())
}

pub(crate) fn class_of_volume(volume: &PersistentVolume) -> &str {
    let in_spec = || volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    meta::annotation(&volume.metadata, BETA_CLASS).or_else(in_spec).unwrap_or_default()
}

/// Whether claims of the class wait for a pod before they are bound.
pub(crate) fn is_delayed(class: Option<&Arc<StorageClass>>) -> bool {
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

pub(crate) fn class<'a>(classes: &'a Table<StorageClass>, name: &str) -> Option<&'a Arc<StorageClass>> {
    classes.get(&Key::cluster(name))
}

fn amount(text: Option<&Text>) -> Quantity {
    text.and_then(|text| text.0.parse().ok()).unwrap_or_default()
}

/// The requested size.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    amount(resources.and_then(|resources| resources.requests.as_ref()?.get("storage")))
}

pub(crate) fn capacity(volume: &PersistentVolume) -> Quantity {
    amount(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage")))
}

/// The name of the volume that the claim is bound to, or wants.
pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

pub(crate) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    meta::annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

pub(crate) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

pub(super) fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the volume is reserved for this claim: by name, and by uid if it names one.
pub(crate) fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|of| {
        of.namespace.as_deref().unwrap_or_default() == meta::namespace(&claim.metadata)
            && of.name.as_deref() == claim.metadata.name.as_deref()
            && of
                .uid
                .as_deref()
                .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    })
}

/// The volume, bound to the claim; `None` if it already is.
pub(crate) fn reserve(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let complete = claim_ref(volume).is_some_and(|of| {
        of.uid.as_deref().is_some_and(|uid| !uid.is_empty()) && is_reserved_for(volume, claim)
    });
    if complete {
        return None;
    }
    let mut bound = volume.clone();
    if !is_reserved_for(volume, claim) {
        let annotations = bound.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    bound.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    Some(bound)
}

pub(super) fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some(Kind::PersistentVolumeClaim.api_version().to_owned()),
        kind: Some(Kind::PersistentVolumeClaim.name().to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

pub(super) fn modes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    mode(of_volume) != mode(of_claim)
}

fn access_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

fn has_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let mut wanted = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
    wanted.all(|mode| access_modes(volume).contains(mode))
}

fn attributes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() != of_claim.unwrap_or_default()
}

/// Why a volume that the claim names cannot serve it, in upstream's words.
pub(super) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let why = if meta::terminating(&volume.metadata) {
        return Some(format!("the volume is marked for deletion {:?}", meta::name(&volume.metadata)));
    } else if capacity(volume) < requested(claim) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if attributes_differ(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if modes_differ(volume, claim) {
        "incompatible volumeMode"
    } else if !has_access_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// Who looks for a volume.
#[derive(Clone, Copy)]
pub(crate) enum Seeker<'a> {
    /// The binder. Of a delayed claim it takes only volumes that are reserved for it.
    Binder { delayed: bool },
    /// The scheduler, for a pod on this node.
    Scheduler { node: &'a Node, taken: &'a BTreeSet<String> },
}

/// The volume that is reserved for the claim, or else the smallest that suits it. Volumes with further access modes come
/// after those without.
pub(crate) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a Arc<PersistentVolume>>,
    seeker: Seeker<'_>,
) -> Option<&'a Arc<PersistentVolume>> {
    let size = requested(claim);
    let is_taken = |volume: &PersistentVolume| match seeker {
        Seeker::Scheduler { taken, .. } => taken.contains(meta::name(&volume.metadata)),
        Seeker::Binder { .. } => false,
    };
    let is_near = |volume: &PersistentVolume| match seeker {
        Seeker::Scheduler { node, .. } => reaches(volume, node),
        Seeker::Binder { .. } => true,
    };
    let mut smallest: Option<(usize, Quantity, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let reserved = is_reserved_for(volume, claim);
        if claim_ref(volume).is_some() && !reserved
            || is_taken(volume)
            || meta::terminating(&volume.metadata)
            || capacity(volume) < size
            || modes_differ(volume, claim)
            || attributes_differ(volume, claim)
            || !has_access_modes(volume, claim)
        {
            continue;
        }
        if reserved {
            return is_near(volume).then_some(volume);
        }
        if matches!(seeker, Seeker::Binder { delayed: true })
            || !is_free_for(volume, claim)
            || !is_near(volume)
        {
            continue;
        }
        let rank = (access_modes(volume).len(), capacity(volume));
        if smallest.as_ref().is_none_or(|(modes, size, _)| rank < (*modes, *size)) {
            smallest = Some((rank.0, rank.1, volume));
        }
    }
    smallest.map(|(.., volume)| volume)
}

fn is_free_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    phase(volume) == "Available"
        && class_of_volume(volume) == class_of_claim(claim)
        && selector.is_none_or(|selector| meta::selects(selector, volume.metadata.labels.as_ref()))
}

/// Whether pods of the node can use the volume, by its node affinity.
pub(crate) fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_admits(term, node)))
}

/// Whether the node is in the zone and region of the volume's labels. A value may list several, joined by `__`.
pub(crate) fn is_in_zone(volume: &PersistentVolume, node: &Node) -> bool {
    let in_zones = TOPOLOGY_LABELS.iter().any(|label| meta::label(&node.metadata, label).is_some());
    !in_zones
        || TOPOLOGY_LABELS.iter().all(|label| {
            meta::label(&volume.metadata, label).is_none_or(|values| {
                let own = meta::label(&node.metadata, label);
                own.is_some_and(|own| values.split("__").any(|value| value == own))
            })
        })
}

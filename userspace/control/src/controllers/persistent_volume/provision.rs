//! New volumes: of the built-in class they are made here, other provisioners learn of the claim by its annotations. PURE.
//!
//! A volume of the built-in class is a folder of the node that the scheduler selected. The node makes the folder when the
//! first pod uses the volume (`skep_api::local_path`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_api::local_path::{FOLDER_ANNOTATION, NODE_LABEL, PROVISIONED_BY, PROVISIONER};

use super::matching::{BOUND_BY_CONTROLLER, SELECTED_NODE, class_of_claim, reference};
use super::record::claim_event;
use crate::action::Action;
use crate::cache::{Key, View};
use crate::meta;

/// Whose provisioner is to make a claim's volume, in the present and the earlier form.
const STORAGE_PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const HOSTNAME: &str = "kubernetes.io/hostname";
/// A label's value has at most this many bytes.
const MAX_LABEL_BYTES: usize = 63;

/// The folder that holds the node's volumes.
pub(super) fn folder(node: &Node) -> Option<&str> {
    meta::annotation(&node.metadata, FOLDER_ANNOTATION)
}

/// Whether the built-in provisioner made the volume.
pub(super) fn is_ours(volume: &PersistentVolume) -> bool {
    meta::annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
}

/// The steps to a new volume for the claim, one a reconcile.
pub(super) fn provision(
    view: &View,
    claim: &Arc<PersistentVolumeClaim>,
    class: Option<&Arc<StorageClass>>,
) -> Vec<Action> {
    let failed = |message: String| vec![claim_event(claim, true, "ProvisioningFailed", message)];
    let Some(class) = class else {
        return failed(format!("storageclass.storage.k8s.io {:?} not found", class_of_claim(claim)));
    };
    let provisioner = class.provisioner.as_str();
    // Every other plugin of this prefix became a driver outside.
    if provisioner.starts_with("kubernetes.io/") {
        return failed(format!("no volume plugin matched name: {provisioner}"));
    }
    let marked =
        STORAGE_PROVISIONER.iter().all(|mark| meta::annotation(&claim.metadata, mark) == Some(provisioner));
    if !marked {
        let mut marked = PersistentVolumeClaim::clone(claim);
        let annotations = marked.metadata.annotations.get_or_insert_default();
        annotations.extend(STORAGE_PROVISIONER.map(|mark| (mark.to_owned(), provisioner.to_owned())));
        return vec![Action::update(marked)];
    }
    if provisioner != PROVISIONER {
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        );
        return vec![claim_event(claim, false, "ExternalProvisioning", message)];
    }
    match local_volume(view, claim, class) {
        Ok(volume) => {
            let name = meta::name(&volume.metadata);
            let message = format!("Successfully provisioned volume {name} using {PROVISIONER}");
            vec![Action::Create(volume.into()), claim_event(claim, false, "ProvisioningSucceeded", message)]
        }
        Err(Refusal::Final(why)) => failed(format!(
            "Failed to provision volume with StorageClass {:?}: {why}",
            meta::name(&class.metadata)
        )),
        Err(Refusal::Reschedule(why)) => {
            let mut free = PersistentVolumeClaim::clone(claim);
            free.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
            vec![Action::update(free), claim_event(claim, true, "ProvisioningFailed", why)]
        }
    }
}

enum Refusal {
    /// Until the claim, its class or its node changes.
    Final(String),
    /// Another node may do.
    Reschedule(String),
}

fn local_volume(
    view: &View,
    claim: &Arc<PersistentVolumeClaim>,
    class: &StorageClass,
) -> Result<PersistentVolume, Refusal> {
    let spec = claim.spec.clone().unwrap_or_default();
    check(&spec, class)?;
    let selected = meta::annotation(&claim.metadata, SELECTED_NODE);
    let Some(selected) = selected else {
        let why =
            "the class needs volumeBindingMode WaitForFirstConsumer, since the volume is on the pod's node";
        return Err(Refusal::Final(why.to_owned()));
    };
    let Some(node) = view.nodes.get(&Key::cluster(selected)) else {
        return Err(Refusal::Reschedule(format!("Failed to get target node: node {selected:?} not found")));
    };
    let Some(folder) = folder(node) else {
        return Err(Refusal::Final(format!(
            "node {selected:?} has no folder for volumes (annotation {FOLDER_ANNOTATION})"
        )));
    };
    if selected.len() > MAX_LABEL_BYTES {
        return Err(Refusal::Final(format!("the name of node {selected:?} is too long for a label")));
    }
    let hostname = meta::label(&node.metadata, HOSTNAME).unwrap_or(selected);
    let name = format!("pvc-{}", meta::uid(&claim.metadata));
    let path = format!("{}/{name}", folder.trim_end_matches('/'));
    let wanted = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    let annotations = [(BOUND_BY_CONTROLLER, "yes"), (PROVISIONED_BY, PROVISIONER)];
    let metadata = ObjectMeta {
        name: Some(name),
        labels: Some(BTreeMap::from([(NODE_LABEL.to_owned(), selected.to_owned())])),
        annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..ObjectMeta::default()
    };
    let spec = PersistentVolumeSpec {
        access_modes: spec.access_modes.clone(),
        capacity: wanted.map(|size| BTreeMap::from([("storage".to_owned(), size.clone())])),
        claim_ref: Some(reference(claim)),
        local: Some(LocalVolumeSource { path, fs_type: None }),
        node_affinity: Some(on_node(hostname)),
        persistent_volume_reclaim_policy: Some(
            class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned()),
        ),
        storage_class_name: Some(class_of_claim(claim).to_owned()),
        volume_mode: Some("Filesystem".to_owned()),
        ..PersistentVolumeSpec::default()
    };
    Ok(PersistentVolume { metadata, spec: Some(spec), status: None })
}

/// What a folder of one node cannot be.
fn check(spec: &PersistentVolumeClaimSpec, class: &StorageClass) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::Final(why));
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if let Some(mode) =
        modes.iter().find(|mode| !matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"))
    {
        return refuse(format!(
            "access mode {mode} is not supported: only ReadWriteOnce and ReadWriteOncePod are"
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return refuse("block volumes are not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return refuse("only CSI drivers can provision a claim with a data source".to_owned());
    }
    if spec.selector.is_some() {
        return refuse("claim.spec.selector is not supported".to_owned());
    }
    let options = class.mount_options.as_deref().unwrap_or_default();
    if !options.is_empty() {
        return refuse(format!(
            "Mount options are not supported by the provisioner but StorageClass {:?} has mount options {options:?}",
            meta::name(&class.metadata)
        ));
    }
    match class.parameters.iter().flatten().next() {
        Some((name, _)) => refuse(format!("unknown parameter {name:?}")),
        None => Ok(()),
    }
}

fn on_node(hostname: &str) -> VolumeNodeAffinity {
    let requirement = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

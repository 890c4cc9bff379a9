//! Volumes of claims: from the claim to its PersistentVolume to a path of this node.
//!
//! In: a pod's volume, the API server's claim and volume. Out: a link in the pod's folder that leads to the data, by which
//! containers get them, also while the API server is away. Only the agent can change the link, and its removal leaves the
//! data. Texts of errors are the kubelet's.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;

use super::local_path::{LocalPathError, is_ours};
use super::ownership::{OwnershipError, set_group};
use super::{VolumeError, VolumeManager, disk};
use crate::names;

/// Why the data of a claim cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("failed to fetch PVC from API server: persistentvolumeclaims {0:?} not found")]
    NoClaim(String),
    #[error("PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)")]
    NotOwner { namespace: String, claim: String, pod: String },
    #[error("PVC is being deleted")]
    Terminating,
    #[error("PVC is not bound")]
    NotBound,
    #[error("failed to fetch PV {0} from API server: persistentvolumes {0:?} not found")]
    NoVolume(String),
    #[error("found PV object {0} with a claimRef that is not this claim's")]
    OtherClaim(String),
    #[error("volume {0} has volumeMode Block, but is specified in volumeMounts")]
    BlockMounted(String),
    #[error("volume {0} is specified in volumeDevices: block volumes are not supported by this node")]
    Device(String),
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    InUse,
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NoDriver(String),
    #[error("no volume plugin matched")]
    NoPlugin,
    #[error("path {0:?} does not exist")]
    NoPath(String),
    #[error("{0}")]
    Folder(#[from] LocalPathError),
    #[error("applyFSGroup failed for vol {volume}: {source}")]
    Group { volume: String, source: OwnershipError },
}

/// Where a volume's data are on this node.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    HostPath { path: &'a str, type_: &'a str },
    Local { path: &'a str },
}

/// The plugin of a volume. Drivers (CSI) have their own arm.
fn place(volume: &PersistentVolume) -> Result<Place<'_>, ClaimError> {
    let spec = volume.spec.as_ref().ok_or(ClaimError::NoPlugin)?;
    if let Some(source) = &spec.host_path {
        return Ok(Place::HostPath {
            path: &source.path,
            type_: source.type_.as_deref().unwrap_or_default(),
        });
    }
    if let Some(source) = &spec.local {
        return Ok(Place::Local { path: &source.path });
    }
    if let Some(source) = &spec.csi {
        return Err(ClaimError::NoDriver(source.driver.clone()));
    }
    Err(ClaimError::NoPlugin)
}

/// The name of the claim behind a volume; `None` for volumes of other kinds.
pub(super) fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", names::of(pod).0, volume.name)),
        (None, None) => None,
    }
}

/// The name of the volume that the claim is bound to.
fn bound<'c>(pod: &Pod, volume: &Volume, claim: &'c PersistentVolumeClaim) -> Result<&'c str, ClaimError> {
    let meta = &claim.metadata;
    if volume.persistent_volume_claim.is_none() {
        let owners = meta.owner_references.iter().flatten();
        let mut controllers = owners.filter(|owner| owner.controller == Some(true));
        if !controllers.any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref()) {
            let (pod, namespace, _) = names::of(pod);
            let claim = meta.name.clone().unwrap_or_default();
            return Err(ClaimError::NotOwner { namespace, claim, pod });
        }
    }
    if meta.deletion_timestamp.is_some() {
        return Err(ClaimError::Terminating);
    }
    let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    name.filter(|name| is_bound && !name.is_empty()).ok_or(ClaimError::NotBound)
}

/// Whether the claim's volume can be mounted as the pod says.
fn check(
    pod: &Pod,
    volume: &Volume,
    claim: &PersistentVolumeClaim,
    found: &PersistentVolume,
) -> Result<(), ClaimError> {
    let name = || found.metadata.name.clone().unwrap_or_default();
    let of = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if of.and_then(|of| of.uid.as_ref()) != claim.metadata.uid.as_ref() {
        return Err(ClaimError::OtherClaim(name()));
    }
    let spec = pod.spec.as_ref();
    let containers =
        spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let mut devices = containers.flat_map(|container| container.volume_devices.iter().flatten());
    if devices.any(|device| device.name == volume.name) {
        return Err(ClaimError::Device(volume.name.clone()));
    }
    match found.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) {
        Some("Block") => Err(ClaimError::BlockMounted(volume.name.clone())),
        _ => Ok(()),
    }
}

fn is_exclusive(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    modes.iter().any(|mode| mode == "ReadWriteOncePod")
}

impl VolumeManager {
    /// The link that leads to the data of a claim's volume.
    fn claim_link(&self, uid: &str, volume: &str) -> PathBuf {
        self.pods.join(uid).join("claims").join(volume)
    }

    /// The data of a claim's volume; `None` until it was prepared.
    pub(super) fn claim_path(&self, uid: &str, volume: &str) -> Option<PathBuf> {
        fs::read_link(self.claim_link(uid, volume)).ok()
    }

    /// Makes the data of the claim usable by the pod. `has_ended`: whether the pod of this uid uses its volumes no more.
    pub(super) async fn prepare_claim(
        &self,
        pod: &Pod,
        volume: &Volume,
        has_ended: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<(), VolumeError> {
        let (_, namespace, uid) = names::of(pod);
        let Some(name) = claim_name(pod, volume) else { return Ok(()) };
        // A running pod keeps its volumes, whatever becomes of the claim.
        if self.claim_path(&uid, &volume.name).is_some() {
            return Ok(());
        }
        let unbound = |source: ClaimError| VolumeError::Claim {
            volume: volume.name.clone(),
            claim: format!("{namespace}/{name}"),
            source,
        };
        let api_failed = |source| VolumeError::Api { volume: volume.name.clone(), source: Box::new(source) };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let claim = claims.get_opt(&name).await.map_err(api_failed)?;
        let claim = claim.ok_or_else(|| unbound(ClaimError::NoClaim(name.clone())))?;
        let bound = bound(pod, volume, &claim).map_err(unbound)?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = volumes.get_opt(bound).await.map_err(api_failed)?;
        let found = found.ok_or_else(|| unbound(ClaimError::NoVolume(bound.to_owned())))?;
        check(pod, volume, &claim, &found).map_err(unbound)?;
        let mount_failed = |source| VolumeError::Mount { volume: bound.to_owned(), source };
        let place = place(&found).map_err(mount_failed)?;
        if is_exclusive(&claim) && self.is_used_by_another(&uid, place.path(), has_ended) {
            return Err(mount_failed(ClaimError::InUse));
        }
        self.open_place(pod, volume, &found, &place).await?;
        let link = self.claim_link(&uid, &volume.name);
        link_to(place.path(), &link).map_err(|source| VolumeError::Io {
            volume: volume.name.clone(),
            operation: "link",
            path: link.display().to_string(),
            source,
        })
    }

    /// Checks that the data are there, and gives them to the pod's group.
    async fn open_place(
        &self,
        pod: &Pod,
        volume: &Volume,
        found: &PersistentVolume,
        place: &Place<'_>,
    ) -> Result<(), VolumeError> {
        let name = found.metadata.name.clone().unwrap_or_default();
        let path = match place {
            Place::HostPath { path, type_ } => {
                let path = Path::new(path);
                return disk::check_host_path(path, type_).map_err(|problem| problem.of_volume(&name, path));
            }
            Place::Local { path } => *path,
        };
        let failed = |source| VolumeError::Mount { volume: name.clone(), source };
        if is_ours(found) {
            self.local_paths.ensure(found).await.map_err(|error| failed(error.into()))?;
        } else if !Path::new(path).exists() {
            return Err(failed(ClaimError::NoPath(path.to_owned())));
        }
        let is_read_only =
            volume.persistent_volume_claim.as_ref().is_some_and(|source| source.read_only == Some(true));
        let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let group = super::owner(pod).group.filter(|_| !is_read_only);
        let Some(group) = group else { return Ok(()) };
        let only_on_mismatch =
            security.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        let root = PathBuf::from(path);
        let set = tokio::task::spawn_blocking(move || set_group(&root, group, only_on_mismatch)).await;
        let set = set.unwrap_or_else(|join| Err(OwnershipError::join(&join)));
        set.map_err(|source| failed(ClaimError::Group { volume: volume.name.clone(), source }))
    }

    /// Whether another pod of the node that has not ended uses the path.
    fn is_used_by_another(&self, own: &str, path: &str, has_ended: &(dyn Fn(&str) -> bool + Sync)) -> bool {
        let others = self.known_pods().into_iter().filter(|uid| uid != own && !has_ended(uid));
        others.into_iter().any(|uid| self.links_of(&uid).any(|target| target == Path::new(path)))
    }

    fn links_of(&self, uid: &str) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.pods.join(uid).join("claims")).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read_link(entry.path()).ok())
    }
}

impl Place<'_> {
    fn path(&self) -> &str {
        match self {
            Place::HostPath { path, .. } | Place::Local { path } => path,
        }
    }
}

/// Makes the link, in place of an earlier one.
fn link_to(target: &str, link: &Path) -> io::Result<()> {
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = link.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &fresh)?;
    fs::rename(&fresh, link)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).expect("an object")
    }

    fn pod(volume: Value) -> Pod {
        parse(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "c"}], "volumes": [volume]}}))
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "ns", "uid": "c"},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        for (part, fields) in more.as_object().into_iter().flatten() {
            claim[part]
                .as_object_mut()
                .expect("a part")
                .extend(fields.as_object().cloned().unwrap_or_default());
        }
        parse(claim)
    }

    fn volume(spec: Value) -> PersistentVolume {
        let mut all = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "c"}}});
        all["spec"].as_object_mut().expect("a spec").extend(spec.as_object().cloned().unwrap_or_default());
        parse(all)
    }

    #[test]
    fn a_claim_says_why_it_cannot_be_used_yet() {
        let pod = pod(json!({"name": "d", "persistentVolumeClaim": {"claimName": "data"}}));
        let named = &pod.spec.as_ref().expect("a spec").volumes.as_ref().expect("volumes")[0];
        let why = |claim: &PersistentVolumeClaim| {
            bound(&pod, named, claim).map_err(|error| error.to_string()).err()
        };
        assert_eq!(why(&claim(json!({}))), None);
        assert_eq!(why(&claim(json!({"status": {"phase": "Pending"}}))).as_deref(), Some("PVC is not bound"));
        assert_eq!(why(&claim(json!({"spec": {"volumeName": ""}}))).as_deref(), Some("PVC is not bound"));
        let going = claim(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert_eq!(why(&going).as_deref(), Some("PVC is being deleted"));
        let error =
            VolumeError::Claim { volume: "d".into(), claim: "ns/data".into(), source: ClaimError::NotBound };
        assert_eq!(
            error.to_string(),
            "Unable to attach or mount volumes: unmounted volumes=[d], unattached volumes=[], failed to process \
             volumes=[d]: error processing PVC ns/data: PVC is not bound"
        );
    }

    #[test]
    fn an_ephemeral_volume_takes_only_a_claim_of_its_pod() {
        let pod = pod(json!({"name": "s", "ephemeral": {}}));
        let volume = &pod.spec.as_ref().expect("a spec").volumes.as_ref().expect("volumes")[0];
        assert_eq!(claim_name(&pod, volume).as_deref(), Some("p-s"));
        let owner = |uid: &str| {
            let owner =
                json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true});
            claim(json!({"metadata": {"ownerReferences": [owner]}}))
        };
        assert!(bound(&pod, volume, &owner("u")).is_ok());
        assert!(matches!(bound(&pod, volume, &owner("other")), Err(ClaimError::NotOwner { .. })));
    }

    #[test]
    fn other_claims_blocks_and_drivers_are_refused() {
        let named = json!({"name": "d", "persistentVolumeClaim": {"claimName": "data"}});
        let mut user = pod(named);
        let wanted = user.spec.as_ref().expect("a spec").volumes.as_ref().expect("volumes")[0].clone();
        let local = json!({"local": {"path": "/x"}});
        let of = |user: &Pod, spec: Value| check(user, &wanted, &claim(json!({})), &volume(spec));
        assert!(of(&user, local.clone()).is_ok());
        assert!(matches!(of(&user, json!({"claimRef": {"uid": "x"}})), Err(ClaimError::OtherClaim(_))));
        assert!(matches!(of(&user, json!({"volumeMode": "Block"})), Err(ClaimError::BlockMounted(_))));
        user.spec.as_mut().expect("a spec").containers[0].volume_devices =
            Some(vec![parse(json!({"name": "d", "devicePath": "/dev/x"}))]);
        assert!(matches!(of(&user, local), Err(ClaimError::Device(_))));
        let found = volume(json!({"csi": {"driver": "d.example.com", "volumeHandle": "h"}}));
        assert!(matches!(place(&found), Err(ClaimError::NoDriver(driver)) if driver == "d.example.com"));
        assert!(matches!(
            place(&volume(json!({"nfs": {"server": "s", "path": "/"}}))),
            Err(ClaimError::NoPlugin)
        ));
    }
}

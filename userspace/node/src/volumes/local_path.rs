//! The folders of local-path volumes (`skep_api::local_path`).
//!
//! In: PersistentVolumes with this node's label. Out: `volumes/NAME` of the agent's folder. It is made when the first pod
//! uses the volume, and a finalizer records that; so a folder that is lost is an error and not an empty volume. It is removed
//! when the volume is deleted and nothing uses it, before the finalizer goes. The path comes from the volume's name alone.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;
use skep_api::local_path::{FINALIZER, NODE_LABEL, PROVISIONED_BY, PROVISIONER};
use tokio_util::sync::CancellationToken;

use super::remove::remove_tree;

/// How often a removal that failed, or that waits for a pod, is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A younger folder may be of a volume that came after the list.
const MIN_STRAY_AGE: Duration = Duration::from_secs(3600);
/// Others may write the volume between our read and our write.
const MAX_CONFLICTS: u32 = 5;
/// Every user of a pod may write; only the agent and the pods reach the folder.
const FOLDER_MODE: u32 = 0o777;
/// Volumes that are in use have it.
const PROTECTION: &str = "kubernetes.io/pv-protection";

/// Why a volume's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalPathError {
    #[error("volume {0} belongs to another node, or not to the folder of this one")]
    Elsewhere(String),
    #[error("volume {0} is being deleted")]
    Terminating(String),
    #[error("folder {0} of the volume is lost")]
    Lost(String),
    #[error("make folder {path}: {source}")]
    Make { path: String, source: io::Error },
    #[error("remove folder {path}: {source}")]
    Remove { path: String, source: io::Error },
    #[error("write volume {name}: {source}")]
    Write { name: String, source: Box<kube::Error> },
}

/// Whether the built-in provisioner made the volume.
pub(super) fn is_ours(volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(PROVISIONED_BY)).is_some_and(|by| by == PROVISIONER)
}

fn has_finalizer(volume: &PersistentVolume, finalizer: &str) -> bool {
    volume.metadata.finalizers.iter().flatten().any(|other| other == finalizer)
}

fn name(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

/// What becomes of a volume that is being deleted.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// It is not this node's, or not deleted, or still bound.
    None,
    /// Its data stay; the object goes.
    Release,
    Remove,
}

fn ending(volume: &PersistentVolume) -> Ending {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_over = volume.metadata.deletion_timestamp.is_some()
        && has_finalizer(volume, FINALIZER)
        && !has_finalizer(volume, PROTECTION)
        && phase != Some("Bound");
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    match policy {
        _ if !is_over => Ending::None,
        Some("Delete") => Ending::Remove,
        _ => Ending::Release,
    }
}

/// Makes and removes the folders.
pub(crate) struct LocalPaths {
    client: Client,
    node: String,
    folder: PathBuf,
    /// The folders of pods, whose links say what is in use.
    pods: PathBuf,
}

impl LocalPaths {
    pub(super) fn new(client: Client, node: &str, root: &Path) -> LocalPaths {
        LocalPaths { client, node: node.to_owned(), folder: folder(root), pods: root.join("pods") }
    }

    /// The volume's folder; its name must be one part of a path.
    fn path(&self, volume: &PersistentVolume) -> Result<PathBuf, LocalPathError> {
        let name = name(volume);
        let of = volume.metadata.labels.as_ref().and_then(|labels| labels.get(NODE_LABEL));
        let path = self.folder.join(name);
        let given =
            volume.spec.as_ref().and_then(|spec| spec.local.as_ref()).map(|local| Path::new(&local.path));
        let is_part = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        if is_part && of == Some(&self.node) && given == Some(&path) {
            return Ok(path);
        }
        Err(LocalPathError::Elsewhere(name.to_owned()))
    }

    /// Makes the folder, unless it was made before.
    pub(super) async fn ensure(&self, volume: &PersistentVolume) -> Result<(), LocalPathError> {
        let path = self.path(volume)?;
        if has_finalizer(volume, FINALIZER) {
            let is_there = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            return if is_there { Ok(()) } else { Err(LocalPathError::Lost(path.display().to_string())) };
        }
        if volume.metadata.deletion_timestamp.is_some() {
            return Err(LocalPathError::Terminating(name(volume).to_owned()));
        }
        make(&path).map_err(|source| LocalPathError::Make { path: path.display().to_string(), source })?;
        // After a lost answer the folder stays, since the finalizer may be there.
        if self.set_finalizer(volume, true).await? {
            return Ok(());
        }
        let _ = fs::remove_dir(&path);
        Err(LocalPathError::Terminating(name(volume).to_owned()))
    }

    /// Removes empty folders that no volume has: the agent or the server ended before their volumes recorded them.
    fn remove_strays(&self, listed: &HashSet<String>) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let changed = entry.metadata().and_then(|found| found.modified()).ok();
            let is_old = changed.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > MIN_STRAY_AGE);
            if is_old && !listed.contains(&*entry.file_name().to_string_lossy()) {
                // A folder with data is refused, and stays: its volume may have been retained.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// Adds or removes the finalizer. False: the object is gone, or its deletion has begun before the finalizer came.
    async fn set_finalizer(&self, volume: &PersistentVolume, wanted: bool) -> Result<bool, LocalPathError> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let failed =
            |source| LocalPathError::Write { name: name(volume).to_owned(), source: Box::new(source) };
        let mut present = volume.clone();
        for attempt in 1.. {
            if has_finalizer(&present, FINALIZER) == wanted {
                return Ok(true);
            }
            if wanted && present.metadata.deletion_timestamp.is_some() {
                return Ok(false);
            }
            let mut finalizers = present.metadata.finalizers.clone().unwrap_or_default();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            finalizers.extend(wanted.then(|| FINALIZER.to_owned()));
            let version = &present.metadata.resource_version;
            let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
            match api.patch(name(volume), &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(true),
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(!wanted),
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < MAX_CONFLICTS => {}
                Err(error) => return Err(failed(error)),
            }
            match api.get_opt(name(volume)).await.map_err(failed)? {
                Some(newer) if newer.metadata.uid == volume.metadata.uid => present = newer,
                _ => return Ok(!wanted),
            }
        }
        Ok(false)
    }

    /// Follows this node's volumes, and removes the folders of those that are deleted.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let config = watcher::Config::default().labels(&format!("{NODE_LABEL}={}", self.node));
        let stream = watcher(Api::<PersistentVolume>::all(self.client.clone()), config).default_backoff();
        let mut stream = std::pin::pin!(stream);
        let mut ending: HashMap<String, PersistentVolume> = HashMap::new();
        let mut listed = HashSet::new();
        loop {
            let retry = async {
                match ending.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(RETRY_INTERVAL).await,
                }
            };
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = stream.try_next() => event,
                () = retry => {
                    for volume in ending.values().cloned().collect::<Vec<_>>() {
                        self.end(&mut ending, volume).await;
                    }
                    continue;
                }
            };
            match event {
                Ok(Some(watcher::Event::Apply(volume))) => self.end(&mut ending, volume).await,
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(volume))) => {
                    listed.insert(name(&volume).to_owned());
                    self.end(&mut ending, volume).await;
                }
                Ok(Some(watcher::Event::InitDone)) => self.remove_strays(&listed),
                Ok(Some(watcher::Event::Delete(volume))) => drop(ending.remove(name(&volume))),
                Ok(None) => return,
                Err(error) => tracing::debug!(%error, "watch local-path volumes failed"),
            }
        }
    }

    /// Does what a deleted volume needs; one that waits or failed stays in the list.
    async fn end(&self, waiting: &mut HashMap<String, PersistentVolume>, volume: PersistentVolume) {
        match self.end_one(&volume).await {
            Ok(true) => drop(waiting.remove(name(&volume))),
            Ok(false) => drop(waiting.insert(name(&volume).to_owned(), volume)),
            Err(error) => {
                tracing::warn!(volume = name(&volume), %error, "remove local-path volume failed; it is retried");
                waiting.insert(name(&volume).to_owned(), volume);
            }
        }
    }

    /// False: a pod still uses it.
    async fn end_one(&self, volume: &PersistentVolume) -> Result<bool, LocalPathError> {
        let ending = ending(volume);
        if ending == Ending::None {
            return Ok(true);
        }
        // The label alone does not make a folder this node's to remove.
        let Ok(path) = self.path(volume) else { return Ok(true) };
        if self.is_linked(&path) {
            return Ok(false);
        }
        if ending == Ending::Remove {
            let target = path.clone();
            let removed = tokio::task::spawn_blocking(move || remove_tree(&target)).await;
            let removed = removed.unwrap_or_else(|join| Err(io::Error::other(join)));
            removed.map_err(|source| LocalPathError::Remove { path: path.display().to_string(), source })?;
        }
        self.set_finalizer(volume, false).await
    }

    /// Whether the folder of a pod links to it.
    fn is_linked(&self, path: &Path) -> bool {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let links = entries(&self.pods).flat_map(|pod| entries(&pod.path().join("claims")));
        links.into_iter().any(|link| fs::read_link(link.path()).is_ok_and(|target| target == path))
    }
}

/// The folder that holds the volumes of a node.
pub(crate) fn folder(root: &Path) -> PathBuf {
    root.join("volumes")
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if !fs::symlink_metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    // The agent's umask has narrowed it.
    fs::set_permissions(path, fs::Permissions::from_mode(FOLDER_MODE))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn volume(more: Value) -> PersistentVolume {
        let mut volume = json!({
            "metadata": {"name": "pvc-1", "labels": {NODE_LABEL: "n1"}, "annotations": {PROVISIONED_BY: PROVISIONER}},
            "spec": {"local": {"path": "/data/volumes/pvc-1"}, "persistentVolumeReclaimPolicy": "Delete"},
            "status": {"phase": "Released"},
        });
        for (part, fields) in more.as_object().into_iter().flatten() {
            volume[part]
                .as_object_mut()
                .expect("a part")
                .extend(fields.as_object().cloned().unwrap_or_default());
        }
        serde_json::from_value(volume).expect("a volume")
    }

    #[test]
    fn only_a_folder_of_this_node_and_of_the_volumes_name_is_its_own() {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(io::Error::other("no server"))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _entered = runtime.enter();
        let paths = LocalPaths::new(Client::new(service, "default"), "n1", Path::new("/data"));
        let of = |more: Value| paths.path(&volume(more)).ok();
        assert_eq!(of(json!({})), Some(PathBuf::from("/data/volumes/pvc-1")));
        for more in [
            json!({"metadata": {"labels": {NODE_LABEL: "n2"}}}),
            json!({"metadata": {"name": "../pods"}, "spec": {"local": {"path": "/data/volumes/../pods"}}}),
            json!({"metadata": {"name": ".."}, "spec": {"local": {"path": "/data/volumes/.."}}}),
            json!({"metadata": {"name": ""}, "spec": {"local": {"path": "/data/volumes/"}}}),
            json!({"spec": {"local": {"path": "/etc"}}}),
            json!({"spec": {"local": null, "hostPath": {"path": "/data/volumes/pvc-1"}}}),
        ] {
            assert_eq!(of(more.clone()), None, "{more}");
        }
    }

    #[test]
    fn data_go_only_with_a_deleted_volume_that_is_not_bound_and_whose_policy_says_so() {
        let deleted = |finalizers: &[&str]| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}});
        let mut retained = deleted(&[FINALIZER]);
        retained["spec"] = json!({"persistentVolumeReclaimPolicy": "Retain"});
        let mut bound = deleted(&[FINALIZER]);
        bound["status"] = json!({"phase": "Bound"});
        for (more, wanted) in [
            (deleted(&[FINALIZER]), Ending::Remove),
            (retained, Ending::Release),
            (bound, Ending::None),
            (deleted(&[FINALIZER, PROTECTION]), Ending::None),
            (deleted(&[]), Ending::None),
            (json!({"metadata": {"finalizers": [FINALIZER]}}), Ending::None),
        ] {
            assert_eq!(ending(&volume(more.clone())), wanted, "{more}");
        }
    }
}

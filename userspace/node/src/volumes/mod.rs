//! A pod's volumes on this node.
//!
//! In: the pod's spec, ConfigMaps, Secrets, tokens, claims. Out: folders and mounts, made before the pod's containers, refreshed
//! while it runs and removed after it. They are under `pods/UID/` of the agent's folder; secret contents are on one tmpfs,
//! `secrets/`.

pub mod atomic;
mod claims;
mod disk;
mod image;
pub(crate) mod local_path;
pub mod mounts;
mod ownership;
pub mod payload;
mod remove;
pub mod sub_path;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cri::{Cri, api};
use crate::downward::{Allocatable, PodFacts};
use crate::env::Objects;
use crate::names;
use crate::objects::{Object, ObjectCache, ObjectKey, WatchGuard};
use atomic::Owner;
use local_path::LocalPaths;
use tokens::TokenStore;

/// How soon volumes are refreshed again while the API server is away.
const REFRESH_RETRY_INTERVAL: SignedDuration = SignedDuration::from_secs(30);

/// The folder of volumes whose files are an image's.
const IMAGES: &str = "kubernetes.io~image";

/// Why a volume could not be prepared; the event FailedMount shows it.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Payload { volume: String, source: payload::PayloadError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {operation} {path}: {source}")]
    Io { volume: String, operation: &'static str, path: String, source: std::io::Error },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : hostPath type check failed: {path} is not {expected}"
    )]
    HostPath { volume: String, path: String, expected: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Api { volume: String, source: Box<kube::Error> },
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process \
         volumes=[{volume}]: error processing PVC {claim}: {source}"
    )]
    Claim { volume: String, claim: String, source: claims::ClaimError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Mount { volume: String, source: claims::ClaimError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Image { volume: String, source: image::ImageVolumeError },
    #[error("volume {volume:?} is of a kind that this node does not support")]
    Unsupported { volume: String },
}

impl VolumeError {
    /// The API server could not be reached.
    fn is_api_unreachable(&self) -> bool {
        matches!(self, VolumeError::Api { source, .. } if !matches!(**source, kube::Error::Api(_)))
    }
}

/// Makes, refreshes and removes the volumes of all pods.
pub struct VolumeManager {
    client: Client,
    pods: PathBuf,
    secrets: PathBuf,
    local_paths: Arc<LocalPaths>,
    cache: ObjectCache,
    tokens: TokenStore,
    allocatable: Allocatable,
    host_ips: Vec<String>,
}

impl VolumeManager {
    /// Mounts the tmpfs for secret contents, unless an earlier agent has done so.
    pub fn open(
        node: &str,
        root: &Path,
        client: Client,
        cache: ObjectCache,
        allocatable: Allocatable,
        host_ips: Vec<String>,
    ) -> std::io::Result<Self> {
        let (pods, secrets) = (root.join("pods"), root.join("secrets"));
        std::fs::create_dir_all(&pods)?;
        std::fs::create_dir_all(&secrets)?;
        if !remove::is_mount_point(&secrets)? {
            disk::mount_tmpfs(&secrets, None)?;
        }
        // An earlier agent may have mounted it for everyone.
        for folder in [&pods, &secrets] {
            std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        }
        let local_paths = Arc::new(LocalPaths::new(client.clone(), node, root));
        let tokens = TokenStore::new(client.clone());
        Ok(Self { client, pods, secrets, local_paths, cache, tokens, allocatable, host_ips })
    }

    /// Follows the node's local-path volumes until the stop.
    pub(crate) fn follow(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let local_paths = self.local_paths.clone();
        async move { local_paths.run(stop).await }
    }

    /// The pod's folder.
    pub fn pod_folder(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// The uid of every pod that has a folder.
    pub fn known_pods(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.pods).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The volume's path on the host; `None` for kinds that are not supported, and for claims until they are prepared.
    pub fn host_path(&self, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
        let (_, _, uid) = names::of(pod);
        let base = |secret: bool, kind: &str| {
            let folder = if secret { self.secrets.join(&uid) } else { self.pods.join(&uid).join("volumes") };
            Some(folder.join(kind).join(&volume.name))
        };
        if volume.empty_dir.is_some() {
            base(false, "kubernetes.io~empty-dir")
        } else if volume.config_map.is_some() {
            base(false, "kubernetes.io~configmap")
        } else if volume.secret.is_some() {
            base(true, "kubernetes.io~secret")
        } else if volume.projected.is_some() {
            base(true, "kubernetes.io~projected")
        } else if volume.downward_api.is_some() {
            base(false, "kubernetes.io~downward-api")
        } else if volume.image.is_some() {
            base(false, IMAGES)
        } else if claims::claim_name(pod, volume).is_some() {
            self.claim_path(&uid, &volume.name)
        } else {
            volume.host_path.as_ref().map(|h| PathBuf::from(&h.path))
        }
    }

    /// Watches the objects. Call it before `prepare`, so that no change is missed.
    pub fn follow_objects(&self, keys: &[ObjectKey]) -> Vec<Arc<WatchGuard>> {
        keys.iter().map(|key| self.cache.follow(key)).collect()
    }

    /// Makes or refreshes every volume of the pod. Returns when a token must be renewed. `has_ended`: whether the pod of a uid uses its volumes no more.
    pub async fn prepare(
        &self,
        pod: &Pod,
        has_ended: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Option<Timestamp>, VolumeError> {
        let mut refresh_at = None;
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            if volume.image.is_some() {
                // Its image is pulled before the start of the first container that mounts it.
                continue;
            }
            if claims::claim_name(pod, volume).is_some() {
                self.prepare_claim(pod, volume, has_ended).await?;
                continue;
            }
            let refresh = match self.prepare_one(pod, volume).await {
                // While the API server is away, the pod runs with the volumes that exist.
                Err(error) if error.is_api_unreachable() && self.exists(pod, volume) => {
                    Some(Timestamp::now() + REFRESH_RETRY_INTERVAL)
                }
                other => other?,
            };
            refresh_at = [refresh_at, refresh].into_iter().flatten().min();
        }
        Ok(refresh_at)
    }

    fn exists(&self, pod: &Pod, volume: &Volume) -> bool {
        self.host_path(pod, volume).is_some_and(|path| path.join("..data").exists())
    }

    async fn prepare_one(&self, pod: &Pod, volume: &Volume) -> Result<Option<Timestamp>, VolumeError> {
        let name = || volume.name.clone();
        let path = self.host_path(pod, volume).ok_or_else(|| VolumeError::Unsupported { volume: name() })?;
        if let Some(host) = &volume.host_path {
            disk::check_host_path(&path, host.type_.as_deref().unwrap_or_default())
                .map_err(|problem| problem.of_volume(&volume.name, &path))?;
            return Ok(None);
        }
        if let Some(source) = &volume.empty_dir {
            // A disk would not keep what was asked of huge pages.
            if !matches!(source.medium.as_deref(), None | Some("" | "Memory")) {
                return Err(VolumeError::Unsupported { volume: name() });
            }
            let group = owner(pod).group;
            return disk::make_empty_dir(&path, source, group)
                .map(|()| None)
                .map_err(|problem| problem.of_volume(&volume.name, &path));
        }
        let objects = self.objects_of(pod, volume).await?;
        let (issued, refresh) = self
            .tokens
            .issue(pod, volume)
            .await
            .map_err(|source| VolumeError::Api { volume: name(), source: Box::new(source) })?;
        let facts = PodFacts::new(pod, &self.host_ips, &[], self.allocatable);
        let files = payload::compile(volume, &facts, &objects, &issued)
            .map_err(|source| VolumeError::Payload { volume: name(), source })?
            .unwrap_or_default();
        let (owner, target) = (owner(pod), path.clone());
        let written =
            tokio::task::spawn_blocking(move || atomic::write(&target, &files, owner, Timestamp::now()))
                .await
                .unwrap_or_else(|join| Err(std::io::Error::other(join)));
        written.map_err(|source| VolumeError::Io {
            volume: name(),
            operation: "write",
            path: path.display().to_string(),
            source,
        })?;
        Ok(refresh)
    }

    async fn objects_of(&self, pod: &Pod, volume: &Volume) -> Result<Objects, VolumeError> {
        let only = Pod {
            spec: Some(k8s_openapi::api::core::v1::PodSpec {
                volumes: Some(vec![volume.clone()]),
                ..Default::default()
            }),
            metadata: pod.metadata.clone(),
            status: None,
        };
        self.fetch(&payload::references(&only))
            .await
            .map_err(|source| VolumeError::Api { volume: volume.name.clone(), source: Box::new(source) })
    }

    /// The named objects that exist.
    pub async fn fetch(&self, keys: &[ObjectKey]) -> Result<Objects, kube::Error> {
        let mut objects = Objects::default();
        for key in keys {
            match self.cache.get(key).await? {
                Some(Object::ConfigMap(map)) => {
                    objects.config_maps.insert(key.name.clone(), map);
                }
                Some(Object::Secret(secret)) => {
                    objects.secrets.insert(key.name.clone(), secret);
                }
                None => {}
            }
        }
        Ok(objects)
    }

    /// Mounts the files of an image that the runtime has as the pod's volume. Idempotent.
    pub(crate) async fn mount_image(
        &self,
        cri: &Cri,
        pod: &Pod,
        volume: &Volume,
        image: &api::Image,
    ) -> Result<(), VolumeError> {
        let failed = |source| VolumeError::Image { volume: volume.name.clone(), source };
        let folder = self.host_path(pod, volume);
        let folder = folder.ok_or_else(|| VolumeError::Unsupported { volume: volume.name.clone() })?;
        image::mount(cri, image, &names::of(pod).2, &volume.name, folder).await.map_err(failed)
    }

    /// Unmounts and removes everything of the pod. Idempotent.
    pub async fn clean_up(&self, cri: &Cri, uid: &str) -> std::io::Result<()> {
        self.tokens.forget(uid);
        let images = self.pods.join(uid).join("volumes").join(IMAGES);
        if images.exists() {
            remove_all(vec![images]).await?;
            image::release(cri, uid).await.map_err(std::io::Error::other)?;
        }
        remove_all(vec![self.pods.join(uid), self.secrets.join(uid)]).await
    }
}

async fn remove_all(folders: Vec<PathBuf>) -> std::io::Result<()> {
    tokio::task::spawn_blocking(move || folders.iter().try_for_each(|f| remove::remove_tree(f)))
        .await
        .unwrap_or_else(|join| Err(std::io::Error::other(join)))
}

fn owner(pod: &Pod) -> Owner {
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let id = |value: i64| u32::try_from(value).ok();
    let mut users =
        pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten())).map(
            |c| {
                let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
                own.or(security.and_then(|s| s.run_as_user)).and_then(id)
            },
        );
    let first = users.next().flatten();
    Owner {
        user: first.filter(|_| users.all(|user| user == first)),
        group: security.and_then(|s| s.fs_group).and_then(id),
    }
}

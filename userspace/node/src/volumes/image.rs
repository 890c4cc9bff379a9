//! The files of an image, mounted read-only on a folder of the host (KEP-4639).
//!
//! In: an image of the runtime, a folder. Out: the image's layers, mounted there from a view of the runtime's snapshots, or
//! nothing. A lease for each pod protects its views from the runtime's garbage collection; without it they go. This way needs
//! nothing of the CRI, whose own mounts of images exist only since containerd 2.1.

use std::path::{Path, PathBuf};

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::services::v1::{
    ApplyRequest, CreateRequest, DeleteRequest, GetImageRequest, ReadContentRequest,
};
use containerd_client::types::{Descriptor, Mount};
use oci_spec::image::{Arch, ImageIndex, ImageManifest, Os};
use rustix::mount::{MountFlags, mount_bind_recursive, mount_remount};
use sha2::{Digest, Sha256};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::remove::is_mount_point;
use crate::cri::services::{descriptor, in_namespace};
use crate::cri::{Cri, CriError, api};

/// Larger documents are no manifests.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// Why the files of an image are not there.
#[derive(Debug, thiserror::Error)]
pub enum ImageVolumeError {
    #[error("{operation}: {}", .status.message())]
    Runtime { operation: &'static str, status: Box<Status> },
    #[error(transparent)]
    Cri(#[from] CriError),
    #[error("{document} of the image: {source}")]
    Document { document: &'static str, source: serde_json::Error },
    #[error("the image has {layers} layers and {diff_ids} diff ids")]
    Layers { layers: usize, diff_ids: usize },
    #[error("the image has no manifest for this node's platform")]
    NoPlatform,
    #[error("layer {found} of the image should be {wanted}")]
    OtherLayer { found: String, wanted: String },
    #[error("mount of kind {kind} on {path}: {source}")]
    Mount { kind: String, path: String, source: std::io::Error },
}

fn runtime(operation: &'static str) -> impl FnOnce(Status) -> ImageVolumeError {
    move |status| ImageVolumeError::Runtime { operation, status: Box::new(status) }
}

/// Mounts the image's files on the folder, which is made. Idempotent.
pub(super) async fn mount(
    cri: &Cri,
    image: &api::Image,
    pod_uid: &str,
    volume: &str,
    folder: PathBuf,
) -> Result<(), ImageVolumeError> {
    let diff_ids = cri.diff_ids(&image.id).await?;
    let lease = open_lease(cri, pod_uid).await?;
    let snapshots = Snapshots { channel: cri.channel(), snapshotter: cri.snapshotter().await?, lease };
    let key = format!("{}-{volume}", snapshots.lease);
    let parent = chain(&diff_ids).pop().unwrap_or_default();
    let mounts = match snapshots.view(&key, &parent).await {
        // Imported images are unpacked when they are used for the first time.
        Err(status) if status.code() == Code::NotFound => {
            snapshots.unpack(image, &diff_ids).await?;
            snapshots.view(&key, &parent).await
        }
        other => other,
    };
    let mounts = mounts.map_err(runtime("view the image's snapshot"))?;
    let done = tokio::task::spawn_blocking(move || mount_all(&mounts, &folder)).await;
    done.unwrap_or_else(|join| Err(failed("", Path::new(""))(std::io::Error::other(join))))
}

/// Gives the views of a pod to the runtime's garbage collection, once they are unmounted. Idempotent.
pub(super) async fn release(cri: &Cri, pod_uid: &str) -> Result<(), ImageVolumeError> {
    let request = DeleteRequest { id: lease_of(pod_uid), sync: false };
    match LeasesClient::new(cri.channel()).delete(in_namespace(request, None)).await {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other.map(drop).map_err(runtime("end lease")),
    }
}

fn lease_of(pod_uid: &str) -> String {
    format!("skep-image-volumes-{pod_uid}")
}

async fn open_lease(cri: &Cri, pod_uid: &str) -> Result<String, ImageVolumeError> {
    let id = lease_of(pod_uid);
    let request = CreateRequest { id: id.clone(), ..Default::default() };
    match LeasesClient::new(cri.channel()).create(in_namespace(request, None)).await {
        Err(status) if status.code() != Code::AlreadyExists => Err(runtime("lease")(status)),
        _ => Ok(id),
    }
}

/// The names of the snapshots of an image's layers, the lowest first: each is the digest of the layers up to it
/// (OCI image specification, "Layer ChainID").
fn chain(diff_ids: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        names.push(match names.last() {
            None => diff_id.clone(),
            Some(below) => {
                let hash = Sha256::digest(format!("{below} {diff_id}"));
                let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("sha256:{hex}")
            }
        });
    }
    names
}

/// The runtime's snapshotter, under a pod's lease.
struct Snapshots {
    channel: Channel,
    snapshotter: String,
    lease: String,
}

impl Snapshots {
    fn client(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        in_namespace(message, Some(&self.lease))
    }

    /// How a read-only view of the snapshot is mounted.
    async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let (snapshotter, key) = (self.snapshotter.clone(), key.to_owned());
        let view = ViewSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        match self.client().view(self.request(view)).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = self.request(MountsRequest { snapshotter, key });
                Ok(self.client().mounts(request).await?.into_inner().mounts)
            }
            other => Ok(other?.into_inner().mounts),
        }
    }

    /// Makes the snapshots of the image's layers, as the runtime does before an image's first container.
    async fn unpack(&self, image: &api::Image, diff_ids: &[String]) -> Result<(), ImageVolumeError> {
        let layers = self.layers(image).await?;
        if layers.len() != diff_ids.len() {
            return Err(ImageVolumeError::Layers { layers: layers.len(), diff_ids: diff_ids.len() });
        }
        let mut parent = String::new();
        for ((layer, diff_id), name) in layers.into_iter().zip(diff_ids).zip(chain(diff_ids)) {
            let stat = StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: name.clone() };
            if self.client().stat(self.request(stat)).await.is_err() {
                self.apply(layer, diff_id, &parent, &name).await?;
            }
            parent = name;
        }
        Ok(())
    }

    async fn apply(
        &self,
        layer: Descriptor,
        diff_id: &str,
        parent: &str,
        name: &str,
    ) -> Result<(), ImageVolumeError> {
        let key = format!("{}-unpack-{}", self.lease, jiff::Timestamp::now().as_nanosecond());
        let prepare = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        let prepared = self.client().prepare(self.request(prepare)).await;
        let mounts = prepared.map_err(runtime("prepare snapshot"))?.into_inner().mounts;
        let apply = ApplyRequest { diff: Some(layer), mounts, ..Default::default() };
        let applied = DiffClient::new(self.channel.clone()).apply(self.request(apply)).await;
        let applied = applied.map_err(runtime("unpack layer"))?.into_inner().applied.unwrap_or_default();
        if applied.digest != diff_id {
            return Err(ImageVolumeError::OtherLayer { found: applied.digest, wanted: diff_id.to_owned() });
        }
        let commit = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.to_owned(),
            key,
            ..Default::default()
        };
        match self.client().commit(self.request(commit)).await {
            // The runtime has unpacked it meanwhile.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            other => other.map(drop).map_err(runtime("commit snapshot")),
        }
    }

    /// The layers of the image's manifest for this platform, the lowest first.
    async fn layers(&self, image: &api::Image) -> Result<Vec<Descriptor>, ImageVolumeError> {
        let name = image.repo_tags.first().or(image.repo_digests.first()).unwrap_or(&image.id).clone();
        let request = self.request(GetImageRequest { name });
        let found = ImagesClient::new(self.channel.clone()).get(request).await;
        let found = found.map_err(runtime("get image"))?.into_inner().image;
        let mut of = found.and_then(|image| image.target).unwrap_or_default();
        if of.media_type.contains("index") || of.media_type.contains("manifest.list") {
            let index: ImageIndex = parse("the index", &self.read(&of.digest).await?)?;
            let ours = index.manifests().iter().find(|manifest| {
                manifest.platform().as_ref().is_none_or(|platform| {
                    *platform.os() == Os::default() && *platform.architecture() == Arch::default()
                })
            });
            of = descriptor(ours.ok_or(ImageVolumeError::NoPlatform)?);
        }
        let manifest: ImageManifest = parse("the manifest", &self.read(&of.digest).await?)?;
        Ok(manifest.layers().iter().map(descriptor).collect())
    }

    async fn read(&self, digest: &str) -> Result<Vec<u8>, ImageVolumeError> {
        let request = ReadContentRequest { digest: digest.to_owned(), ..Default::default() };
        let answers = ContentClient::new(self.channel.clone()).read(self.request(request)).await;
        let mut answers = answers.map_err(runtime("read content"))?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = answers.message().await.map_err(runtime("read content"))? {
            bytes.extend(piece.data);
            if bytes.len() > MAX_DOCUMENT_BYTES {
                break;
            }
        }
        Ok(bytes)
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
) -> Result<T, ImageVolumeError> {
    serde_json::from_slice(bytes).map_err(|source| ImageVolumeError::Document { document, source })
}

fn failed(kind: &str, folder: &Path) -> impl FnOnce(std::io::Error) -> ImageVolumeError {
    let (kind, path) = (kind.to_owned(), folder.display().to_string());
    move |source| ImageVolumeError::Mount { kind, path, source }
}

/// Mounts a snapshot: its files can be read, but neither written nor executed.
fn mount_all(mounts: &[Mount], folder: &Path) -> Result<(), ImageVolumeError> {
    /// Two containers of a pod may start at the same time.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    std::fs::create_dir_all(folder).map_err(failed("folder", folder))?;
    if !is_mount_point(folder).map_err(failed("folder", folder))? {
        for one in mounts {
            let result = match one.r#type.as_str() {
                "bind" => mount_bind_recursive(&one.source, folder),
                kind => {
                    let own = one.options.iter().filter(|option| option.as_str() != "ro");
                    let data = own.map(String::as_str).collect::<Vec<_>>().join(",");
                    let data = std::ffi::CString::new(data).map_err(std::io::Error::other);
                    let data = data.map_err(failed(kind, folder))?;
                    rustix::mount::mount(&one.source, folder, kind, flags, data.as_c_str())
                }
            };
            result.map_err(|errno| failed(&one.r#type, folder)(errno.into()))?;
        }
    }
    // A bind mount takes flags only in a second step.
    mount_remount(folder, MountFlags::BIND | flags, "")
        .map_err(|errno| failed("remount", folder)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_the_layers_up_to_each() {
        // The digests are those of `printf '%s %s' FIRST SECOND | sha256sum`.
        let ids = ["sha256:aa", "sha256:bb"].map(str::to_owned);
        let second = "sha256:b68ad689d6d1ec110ea1c13617437ad6f3766d4b3b309f6a603a222e07a0164f";
        let names = chain(&ids);
        assert_eq!(names[0], "sha256:aa");
        assert_eq!(names[1], second);
        assert!(chain(&[]).is_empty());
    }
}

//! Imports image archives into containerd.
//!
//! In: `*.tar` files of a folder. Out: blobs and images, written under a lease that prevents their garbage collection
//! before the import is complete.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, GetImageRequest, Image, InfoRequest,
    UpdateImageRequest, WriteAction, WriteContentRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::archive::{self, ArchiveError, Contents, Piece};
use crate::cri::Cri;
use crate::cri::services::{descriptor, in_namespace};

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path}: {source}")]
    Archive { path: String, source: ArchiveError },
    #[error("{path}: {operation}: {}", .status.message())]
    Runtime { path: String, operation: &'static str, status: Box<Status> },
    #[error("{path}: the runtime does not show image {image}")]
    NotShown { path: String, image: String },
}

/// Imports every `*.tar` of the folder; of images that containerd already has only the index is read.
/// Returns the names of all images, and every failure.
pub async fn import_folder(cri: &Cri, folder: &Path) -> (Vec<String>, Vec<ImportError>) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "tar"))
        .collect();
    files.sort();
    let (mut names, mut errors) = (Vec::new(), Vec::new());
    for file in files {
        match import(cri, &file).await {
            Ok(images) => names.extend(images),
            Err(error) => errors.push(error),
        }
    }
    (names, errors)
}

/// Imports one archive and waits until the CRI shows its images.
async fn import(cri: &Cri, path: &Path) -> Result<Vec<String>, ImportError> {
    let text = path.display().to_string();
    let archive_error = |source| ImportError::Archive { path: text.clone(), source };
    let contents = blocking({
        let path = path.to_path_buf();
        move || archive::read_contents(&path)
    })
    .await
    .map_err(archive_error)?;
    let runtime = |operation: &'static str| {
        let path = text.clone();
        move |status: Status| ImportError::Runtime { path, operation, status: Box::new(status) }
    };
    if !all_present(cri.channel(), &contents).await {
        let lease = open_lease(cri.channel(), path).await.map_err(runtime("lease"))?;
        let written = write_all(cri.channel(), path, &contents, &lease, &text).await;
        let created = match written {
            Ok(()) => create_images(cri.channel(), &contents).await.map_err(runtime("create image")),
            Err(error) => Err(error),
        };
        let request = DeleteRequest { id: lease, sync: false };
        let closed = LeasesClient::new(cri.channel()).delete(in_namespace(request, None)).await;
        created?;
        closed.map_err(runtime("end lease"))?;
    }
    let names: Vec<String> = contents.images.into_iter().map(|(name, _)| name).collect();
    for image in &names {
        wait_until_shown(cri, image)
            .await
            .then_some(())
            .ok_or_else(|| ImportError::NotShown { path: text.clone(), image: image.clone() })?;
    }
    Ok(names)
}

/// Waits until the CRI plugin has processed the image's event. False after a timeout.
async fn wait_until_shown(cri: &Cri, image: &str) -> bool {
    for _ in 0..100 {
        if let Ok(Some(_)) = cri.image(image).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|join| Err(ArchiveError::Io(std::io::Error::other(join))))
}

async fn all_present(channel: Channel, contents: &Contents) -> bool {
    let mut images = ImagesClient::new(channel);
    for (name, descriptor) in &contents.images {
        let request = in_namespace(GetImageRequest { name: name.clone() }, None);
        let found = images.get(request).await.ok().and_then(|r| r.into_inner().image);
        let target = found.and_then(|image| image.target);
        if target.is_none_or(|t| t.digest != descriptor.digest().to_string()) {
            return false;
        }
    }
    true
}

async fn open_lease(channel: Channel, path: &Path) -> Result<String, Status> {
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let id = format!("skep-import-{name}-{}", jiff::Timestamp::now().as_nanosecond());
    let expire = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string();
    let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expire)]);
    let request = in_namespace(CreateRequest { id: id.clone(), labels }, None);
    LeasesClient::new(channel).create(request).await?;
    Ok(id)
}

/// Streams the archive once, and writes every blob that containerd does not have.
async fn write_all(
    channel: Channel,
    path: &Path,
    contents: &Contents,
    lease: &str,
    text: &str,
) -> Result<(), ImportError> {
    let (sender, mut pieces) = mpsc::channel::<Piece>(8);
    let file = path.to_path_buf();
    let reader = tokio::spawn(blocking(move || {
        archive::read_blobs(&file, |piece| sender.blocking_send(piece).is_ok())
    }));
    let mut content = ContentClient::new(channel);
    while let Some(piece) = pieces.recv().await {
        let Piece::Begin { digest, size } = piece else { continue };
        let known = content.info(in_namespace(InfoRequest { digest: digest.clone() }, Some(lease))).await;
        if known.is_ok() {
            continue;
        }
        let labels = contents.labels.get(&digest).cloned().unwrap_or_default();
        let blob = Blob { digest, size, labels };
        blob.write(&mut content, &mut pieces, lease).await.map_err(|status| ImportError::Runtime {
            path: text.to_owned(),
            operation: "write blob",
            status: Box::new(status),
        })?;
    }
    let read = reader.await.unwrap_or_else(|join| Err(ArchiveError::Io(std::io::Error::other(join))));
    read.map_err(|source| ImportError::Archive { path: text.to_owned(), source })
}

struct Blob {
    digest: String,
    size: i64,
    labels: HashMap<String, String>,
}

impl Blob {
    async fn write(
        self,
        content: &mut ContentClient<Channel>,
        pieces: &mut mpsc::Receiver<Piece>,
        lease: &str,
    ) -> Result<(), Status> {
        let (requests, stream) = mpsc::channel(4);
        let base = WriteContentRequest {
            r#ref: format!("{lease}-{}", self.digest),
            total: self.size,
            expected: self.digest.clone(),
            ..Default::default()
        };
        let stat = WriteContentRequest { action: WriteAction::Stat as i32, ..base.clone() };
        let feed = async {
            let mut offset = 0;
            let _ = requests.send(stat).await;
            while let Some(Piece::Data(data)) = pieces.recv().await {
                let length = i64::try_from(data.len()).unwrap_or(0);
                let action = WriteAction::Write as i32;
                let request = WriteContentRequest { action, offset, data, ..base.clone() };
                if requests.send(request).await.is_err() {
                    return;
                }
                offset += length;
            }
            let action = WriteAction::Commit as i32;
            let labels = self.labels.clone();
            let _ = requests.send(WriteContentRequest { action, offset, labels, ..base.clone() }).await;
            drop(requests);
        };
        let exchange = async {
            let request = in_namespace(ReceiverStream::new(stream), Some(lease));
            let mut answers = content.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        };
        let ((), result) = tokio::join!(feed, exchange);
        match result {
            Err(status) if Status::code(&status) == Code::AlreadyExists => Ok(()),
            other => other,
        }
    }
}

async fn create_images(channel: Channel, contents: &Contents) -> Result<(), Status> {
    let mut images = ImagesClient::new(channel);
    for (name, target) in &contents.images {
        let image = Image { name: name.clone(), target: Some(descriptor(target)), ..Default::default() };
        let create = CreateImageRequest { image: Some(image.clone()), source_date_epoch: None };
        match images.create(in_namespace(create, None)).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let update = UpdateImageRequest { image: Some(image), ..Default::default() };
                images.update(in_namespace(update, None)).await?;
            }
            other => drop(other?),
        }
    }
    Ok(())
}

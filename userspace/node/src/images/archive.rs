//! Reads an OCI image archive.
//!
//! In: a tar file. Out: the images that it names, which blobs refer to which, and the blobs in pieces.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use tar::Archive;

use super::normalize;

/// Larger blobs are layers, not documents.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("read: {0}")]
    Io(#[from] std::io::Error),
    #[error("{document}: {source}")]
    Document { document: String, source: serde_json::Error },
    #[error("no index.json in the archive")]
    NoIndex,
    #[error("the index names no image (annotation org.opencontainers.image.ref.name)")]
    NoName,
}

/// An archive's contents, without the blobs' bytes.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Each image's full name, and the descriptor of its manifest or index.
    pub(super) images: Vec<(String, Descriptor)>,
    /// Labels that protect a blob's children from garbage collection, by the blob's digest.
    pub(super) labels: BTreeMap<String, HashMap<String, String>>,
}

/// A piece of a blob, in order.
pub(super) enum Piece {
    Begin { digest: String, size: i64 },
    Data(Vec<u8>),
    End,
}

/// Reads the index and every manifest.
pub(super) fn read_contents(path: &Path) -> Result<Contents, ArchiveError> {
    let mut documents: HashMap<String, Vec<u8>> = HashMap::new();
    let mut index = None;
    for entry in Archive::new(File::open(path)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let size = entry.size();
        if name == "index.json" || (name.starts_with("blobs/") && size <= MAX_DOCUMENT_BYTES) {
            let mut bytes = Vec::new();
            (&mut entry).take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes)?;
            match digest_of(&name) {
                Some(digest) => drop(documents.insert(digest, bytes)),
                None => index = Some(bytes),
            }
        }
    }
    let index = index.ok_or(ArchiveError::NoIndex)?;
    let index: ImageIndex = parse("index.json", &index)?;
    let mut contents = Contents::default();
    for descriptor in index.manifests() {
        let annotations = descriptor.annotations().clone().unwrap_or_default();
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| annotations.get(*key));
        if let Some(name) = name {
            contents.images.push((normalize(name), descriptor.clone()));
        }
        walk(descriptor, &documents, &mut contents.labels)?;
    }
    if contents.images.is_empty() { Err(ArchiveError::NoName) } else { Ok(contents) }
}

fn parse<T: serde::de::DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ArchiveError::Document { document: document.to_owned(), source })
}

fn walk(
    descriptor: &Descriptor,
    documents: &HashMap<String, Vec<u8>>,
    labels: &mut BTreeMap<String, HashMap<String, String>>,
) -> Result<(), ArchiveError> {
    let digest = descriptor.digest().to_string();
    let Some(bytes) = documents.get(&digest) else { return Ok(()) };
    let kind = descriptor.media_type().to_string();
    let mut own = HashMap::new();
    let mut refer = |suffix: String, child: &Descriptor| {
        own.insert(format!("containerd.io/gc.ref.content.{suffix}"), child.digest().to_string());
    };
    if kind.contains("index") || kind.contains("manifest.list") {
        let index: ImageIndex = parse(&digest, bytes)?;
        for (position, child) in index.manifests().iter().enumerate() {
            refer(format!("m.{position}"), child);
        }
        for child in index.manifests() {
            walk(child, documents, labels)?;
        }
    } else if kind.contains("manifest") {
        let manifest: ImageManifest = parse(&digest, bytes)?;
        refer("config".to_owned(), manifest.config());
        for (position, layer) in manifest.layers().iter().enumerate() {
            refer(format!("l.{position}"), layer);
        }
    }
    labels.insert(digest, own);
    Ok(())
}

fn digest_of(name: &str) -> Option<String> {
    let (algorithm, value) = name.strip_prefix("blobs/")?.split_once('/')?;
    (!value.is_empty() && !value.contains('/')).then(|| format!("{algorithm}:{value}"))
}

/// Passes every blob to `emit`, which returns false to stop.
pub(super) fn read_blobs(path: &Path, mut emit: impl FnMut(Piece) -> bool) -> Result<(), ArchiveError> {
    for entry in Archive::new(File::open(path)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let Some(digest) = digest_of(&name) else { continue };
        let size = i64::try_from(entry.size()).unwrap_or(i64::MAX);
        if !emit(Piece::Begin { digest, size }) {
            return Ok(());
        }
        loop {
            let mut bytes = Vec::with_capacity(CHUNK_BYTES);
            let limit = u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX);
            if (&mut entry).take(limit).read_to_end(&mut bytes)? == 0 {
                break;
            }
            if !emit(Piece::Data(bytes)) {
                return Ok(());
            }
        }
        if !emit(Piece::End) {
            return Ok(());
        }
    }
    Ok(())
}

//! The folder of manifests: read at start, after each change, and from time to time.
//!
//! In: files. Out: the whole set of pods whenever it changes. A file that is not valid leaves its last pod as it is, and is
//! reported in the log and as an Event of the Node.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::manifest::{ManifestError, parse};
use super::{PodKey, key};
use crate::events::Recorder;
use crate::watched_folder::{WatchFlags, WatchedFolder};

/// How often the folder is read without a change that was noticed; the kubelet's.
const READ_INTERVAL: Duration = Duration::from_secs(20);
const MAX_FILE_BYTES: u64 = 10 << 20;

/// Follows the folder until `stop`. The first set is sent at once.
pub(crate) async fn follow(
    (folder, node): (PathBuf, String),
    events: Recorder,
    sets: mpsc::Sender<Vec<Arc<Pod>>>,
    stop: CancellationToken,
) {
    let mut files = Files::default();
    let mut sent: Option<BTreeSet<String>> = None;
    loop {
        // Before the files are read: no change is between reading and watching.
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let watched = WatchedFolder::new(&folder, changes).ok();
        let (root, name) = (folder.clone(), node.clone());
        let read = tokio::task::spawn_blocking(move || files.read(&root, &name)).await;
        let problems;
        (files, problems) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "read of static pods panicked");
                return;
            }
        };
        for (file, problem) in problems {
            tracing::warn!(file = %file.display(), problem, "read static pod failed");
            let message = format!("static pod {}: {problem}", file.display());
            events.node(&node, true, "InvalidStaticPod", message);
        }
        let pods = files.pods();
        let uids: BTreeSet<String> = pods.iter().map(|pod| crate::names::of(pod).2).collect();
        if sent.as_ref() != Some(&uids) {
            sent = Some(uids);
            if sets.send(pods).await.is_err() {
                return;
            }
        }
        let changed = async {
            match &watched {
                Some(watched) => watched.changed().await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            () = tokio::time::sleep(READ_INTERVAL) => {}
        }
    }
}

/// What is known of the files.
#[derive(Default)]
struct Files {
    /// The last valid pod of each file.
    pods: BTreeMap<PathBuf, Arc<Pod>>,
    /// What was reported of each file.
    problems: BTreeMap<PathBuf, String>,
}

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it has more than {MAX_FILE_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{} has a pod of the same name", .0.display())]
    SameName(PathBuf),
}

impl Files {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.values().cloned().collect()
    }

    /// Reads all files; returns the problems that are new.
    fn read(mut self, folder: &Path, node: &str) -> (Files, Vec<(PathBuf, String)>) {
        let paths = match manifests(folder) {
            Ok(paths) => paths,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let problem = self.note(folder, error.to_string());
                return (self, problem.into_iter().collect());
            }
        };
        let mut before = std::mem::take(&mut self.pods);
        let mut names: BTreeMap<PodKey, PathBuf> = BTreeMap::new();
        let mut new = Vec::new();
        self.problems.retain(|path, _| paths.contains(path));
        for path in paths {
            let last = before.remove(&path);
            let read = read_file(&path, node).and_then(|(pod, unknown)| match names.get(&key(&pod)) {
                Some(other) => Err(FileError::SameName(other.clone())),
                None => Ok((pod, unknown)),
            });
            let (pod, problem) = match read {
                Ok((pod, unknown)) if unknown.is_empty() => {
                    self.problems.remove(&path);
                    (Some(pod), None)
                }
                Ok((pod, unknown)) => (Some(pod), Some(unknown.join(", "))),
                Err(FileError::SameName(other)) => (None, Some(FileError::SameName(other).to_string())),
                // It was removed meanwhile.
                Err(FileError::Io(error)) if error.kind() == ErrorKind::NotFound => (None, None),
                Err(error) => (last.filter(|last| !names.contains_key(&key(last))), Some(error.to_string())),
            };
            new.extend(problem.and_then(|problem| self.note(&path, problem)));
            if let Some(pod) = pod {
                names.insert(key(&pod), path.clone());
                self.pods.insert(path, pod);
            }
        }
        (self, new)
    }

    /// Keeps the problem; returns it unless it is known.
    fn note(&mut self, path: &Path, problem: String) -> Option<(PathBuf, String)> {
        let known = self.problems.insert(path.to_owned(), problem.clone());
        (known.as_ref() != Some(&problem)).then(|| (path.to_owned(), problem))
    }
}

/// The paths of the folder's entries, without hidden ones and folders.
fn manifests(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && !entry.file_type()?.is_dir() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_file(path: &Path, node: &str) -> Result<(Arc<Pod>, Vec<String>), FileError> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(FileError::NotAFile);
    }
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(FileError::TooLong);
    }
    let manifest = parse(&text, path, node, Timestamp::now())?;
    Ok((Arc::new(manifest.pod), manifest.unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
             spec:\n  containers: [{{name: main, image: {image}}}]\n"
        )
    }

    fn images(files: &Files) -> Vec<String> {
        let image = |pod: Arc<Pod>| pod.spec.as_ref()?.containers.first()?.image.clone();
        files.pods().into_iter().filter_map(image).collect()
    }

    #[test]
    fn an_invalid_file_keeps_its_last_pod_and_is_reported_once() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("file");
        write("a.yaml", &pod("a", "one"));
        write(".b.yaml", &pod("b", "hidden"));
        write("c.yaml", "nonsense: [");
        std::fs::create_dir(folder.path().join("d")).expect("folder");
        let (files, problems) = Files::default().read(folder.path(), "n");
        assert_eq!((images(&files), problems.len()), (vec!["one".to_owned()], 1));
        write("a.yaml", "kind: Pod");
        write("c.yaml", &pod("c", "two"));
        let (files, problems) = files.read(folder.path(), "n");
        assert_eq!(images(&files), ["one", "two"]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        let (files, problems) = files.read(folder.path(), "n");
        assert_eq!((images(&files).len(), problems.len()), (2, 0));
        write("b.yaml", &pod("c", "again"));
        let (files, problems) = files.read(folder.path(), "n");
        assert_eq!(images(&files), ["one", "again"]);
        assert!(problems[0].1.ends_with("b.yaml has a pod of the same name"), "{problems:?}");
        std::fs::remove_file(folder.path().join("a.yaml")).expect("removed");
        let (files, problems) = files.read(folder.path(), "n");
        assert_eq!((images(&files), problems.len()), (vec!["again".to_owned()], 0));
        std::fs::remove_dir_all(folder.path()).expect("removed");
        assert!(files.read(folder.path(), "n").0.pods().is_empty());
    }
}

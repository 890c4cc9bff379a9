//! The running server's end of `skep backup`: a socket in the data directory, which sends an archive to who connects.
//!
//! Only this process can read the embedded store's files while it runs. The socket is as private as the keys beside it.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_store::backup::{self, BackupError, File, Pages, Summary};
use skep_store::embedded::EmbeddedStore;
use tokio::io::AsyncWrite;
use tokio::net::UnixListener;

/// Between a failed accept and the next.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A backup that its client does not take for so long ends: it would hold old pages of the store.
const MAX_BACKUP_DURATION: Duration = Duration::from_secs(3600);

/// The socket of a data directory.
pub(super) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("backup.sock")
}

/// The folder of keys in a data directory.
pub(super) const KEYS: &str = "pki";

/// Serves one backup after the other.
pub(super) async fn serve(store: Arc<EmbeddedStore>, data_dir: PathBuf) -> Infallible {
    let listener = match listen(&socket(&data_dir)) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(socket = %socket(&data_dir).display(), %error, "listen for backups failed");
            std::future::pending().await
        }
    };
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a backup failed");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        let sent = async {
            let pages = store.pin().map_err(BackupError::from)?;
            send(&pages, &data_dir, &mut stream).await
        };
        match tokio::time::timeout(MAX_BACKUP_DURATION, sent).await {
            Ok(Ok(summary)) => {
                let Summary { manifest, entries, .. } = summary;
                tracing::info!(revision = manifest.revision, entries, "backup sent");
            }
            Ok(Err(error)) => tracing::error!(%error, "backup failed"),
            Err(_) => tracing::error!(limit = ?MAX_BACKUP_DURATION, "backup failed: its client is too slow"),
        }
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    // What an earlier process left.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Writes an archive of the entries and the keys.
pub(super) async fn send(
    pages: &dyn Pages,
    data_dir: &Path,
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<Summary, BackupError> {
    let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut files = Vec::new();
    collect(data_dir, Path::new(KEYS), &mut files)?;
    backup::write(pages, made, &files, out).await
}

/// The files below a folder, with their names from the data directory on. Links are not followed.
fn collect(data_dir: &Path, folder: &Path, files: &mut Vec<File>) -> io::Result<()> {
    for entry in std::fs::read_dir(data_dir.join(folder))? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, folder.join(entry.file_name()));
        if kind.is_dir() {
            collect(data_dir, &path, files)?;
        } else if kind.is_file() {
            let name = path.to_str().ok_or_else(|| io::Error::other("a file's name is not UTF-8"))?;
            files.push(File { name: name.to_owned(), bytes: std::fs::read(entry.path())? });
        }
    }
    Ok(())
}

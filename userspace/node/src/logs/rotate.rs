//! Keeps container logs within a size.
//!
//! In: the sizes of running containers' logs. Out: a full file is renamed, the runtime opens a new one, the oldest files
//! are removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::context::NodeContext;
use crate::cri::CriError;

/// How often sizes are checked, with one stat for each running container.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Rotates until `stop`.
pub(crate) async fn run(context: Arc<NodeContext>, max_size: u64, max_files: u32, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for (id, path) in running_logs(&context) {
            let size = tokio::fs::metadata(&path).await.map_or(0, |m| m.len());
            if size > max_size
                && let Err(error) = rotate(&context, &id, &path, max_files).await
            {
                tracing::warn!(path = %path.display(), %error, "rotate log failed");
            }
        }
    }
}

/// The id and log file of every running container.
fn running_logs(context: &NodeContext) -> Vec<(String, PathBuf)> {
    let mut logs = Vec::new();
    for pod in context.pods() {
        let Some(status) = &pod.status else { continue };
        let folder = Path::new(&context.settings.log_root).join(crate::names::log_folder(&pod));
        let lists = [&status.init_container_statuses, &status.container_statuses];
        for container in lists.into_iter().flatten().flatten() {
            let running = container.state.as_ref().is_some_and(|s| s.running.is_some());
            let id = container.container_id.as_deref().and_then(|id| id.split_once("://"));
            if let (true, Some((_, id))) = (running, id) {
                let attempt = u32::try_from(container.restart_count).unwrap_or(0);
                logs.push((id.to_owned(), folder.join(crate::names::log_file(&container.name, attempt))));
            }
        }
    }
    logs
}

#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error("rename to {path}: {source}")]
    Rename { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Reopen(#[from] CriError),
    #[error("remove old files: {0}")]
    Remove(#[source] std::io::Error),
}

async fn rotate(context: &NodeContext, id: &str, path: &Path, max_files: u32) -> Result<(), RotateError> {
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let rotated = path.with_file_name(format!("{name}.{stamp}"));
    let renamed = tokio::fs::rename(path, &rotated).await;
    renamed.map_err(|source| RotateError::Rename { path: rotated.clone(), source })?;
    if let Err(error) = context.cri.reopen_log(id).await {
        // The runtime still writes to the renamed file: give it its name back.
        let _ = tokio::fs::rename(&rotated, path).await;
        return Err(error.into());
    }
    remove_old(path, &name, max_files).await.map_err(RotateError::Remove)
}

async fn remove_old(path: &Path, name: &str, max_files: u32) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut old = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_string_lossy().strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
            old.push(entry.path());
        }
    }
    // The time stamps in the names sort by time.
    old.sort();
    let keep = usize::try_from(max_files.saturating_sub(1)).unwrap_or(0);
    let surplus = old.len().saturating_sub(keep);
    for path in old.into_iter().take(surplus) {
        tokio::fs::remove_file(path).await?;
    }
    Ok(())
}

//! A file of configuration that is followed while the server runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How often the file is looked at.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The file, and its text that was last taken or refused.
pub(crate) struct WatchedFile {
    path: PathBuf,
    known: String,
}

impl WatchedFile {
    pub(crate) fn open(path: &Path) -> std::io::Result<WatchedFile> {
        Ok(WatchedFile { path: path.to_owned(), known: std::fs::read_to_string(path)? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn text(&self) -> &str {
        &self.known
    }

    /// Waits for a text that is another than the known one. The known one stays until [`WatchedFile::set_known`].
    pub(crate) async fn changed(&self) -> std::io::Result<String> {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let text = tokio::fs::read_to_string(&self.path).await?;
            if text != self.known {
                return Ok(text);
            }
        }
    }

    /// What must not be looked at again.
    pub(crate) fn set_known(&mut self, text: String) {
        self.known = text;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadStatus {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConfigHash {
    hash: String,
}

/// Upstream's metrics of a followed file.
#[derive(Clone)]
pub(crate) struct ReloadMetrics {
    reloads: Family<ReloadStatus, Counter>,
    last: Family<ReloadStatus, Gauge>,
    config: Family<ConfigHash, Gauge>,
}

impl ReloadMetrics {
    /// `subsystem`: such as `apiserver_authentication_config_controller`.
    pub(crate) fn register(registry: &mut Registry, subsystem: &str) -> ReloadMetrics {
        let metrics =
            ReloadMetrics { reloads: Family::default(), last: Family::default(), config: Family::default() };
        let help = "Reloads of the configuration file";
        registry.register(format!("{subsystem}_automatic_reloads"), help, metrics.reloads.clone());
        let help = "Seconds since 1970 of the last reload";
        registry.register(
            format!("{subsystem}_automatic_reload_last_timestamp_seconds"),
            help,
            metrics.last.clone(),
        );
        let help = "The configuration in use";
        registry.register(format!("{subsystem}_last_config_info"), help, metrics.config.clone());
        metrics
    }

    /// Records the text that is in use.
    pub(crate) fn set_config(&self, text: &str) {
        let hash: String =
            digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.config.clear();
        self.config.get_or_create(&ConfigHash { hash: format!("sha256:{hash}") }).set(1);
    }

    /// Records a reload; with the text if it succeeded.
    pub(crate) fn record(&self, text: Option<&str>) {
        let status = ReloadStatus { status: if text.is_some() { "success" } else { "failure" } };
        self.reloads.get_or_create(&status).inc();
        self.last.get_or_create(&status).set(Timestamp::now().as_second());
        if let Some(text) = text {
            self.set_config(text);
        }
    }
}

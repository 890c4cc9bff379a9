//! The file of the authorization configuration, followed while the server runs. What cannot be used changes nothing.

use std::collections::BTreeSet;
use std::path::Path;

use super::{AuthorizationError, AuthorizationMetrics, Chain};
use crate::auth_config::{AuthorizationConfig, ConfigError};
use crate::cache::Caches;
use crate::dial::Dialer;
use crate::watched_file::WatchedFile;

pub(crate) struct AuthorizationFile {
    file: WatchedFile,
    metrics: AuthorizationMetrics,
    dialer: Dialer,
    /// The server's own authorizers at its start. They stay: leaving one out would change who may what by accident.
    required: BTreeSet<&'static str>,
}

impl AuthorizationFile {
    /// Reads the file, and the files that it names.
    pub(crate) fn open(
        path: &Path,
        metrics: &AuthorizationMetrics,
        dialer: &Dialer,
    ) -> Result<(AuthorizationFile, Chain), AuthorizationError> {
        let file = WatchedFile::open(path)
            .map_err(|error| AuthorizationError::Read { path: path.to_owned(), error })?;
        let config = AuthorizationConfig::parse(file.text())?;
        let required = config.own_types();
        let chain = Chain::new(config, metrics, dialer)?;
        metrics.reloads.set_config(file.text());
        Ok((AuthorizationFile { file, metrics: metrics.clone(), dialer: dialer.clone(), required }, chain))
    }

    /// Uses each new text of the file. Never ends.
    pub(crate) async fn follow(mut self, caches: Caches) {
        loop {
            let path = self.file.path().display().to_string();
            let text = match self.file.changed().await {
                Ok(text) => text,
                Err(error) => {
                    tracing::error!(path, %error, "reload authorization configuration failed; the one before stays in use");
                    self.metrics.reloads.record(None);
                    continue;
                }
            };
            match self.chain(&text) {
                Ok(chain) => {
                    caches.authorizer().set_chain(chain);
                    self.metrics.reloads.record(Some(&text));
                    tracing::info!(path, "authorization configuration reloaded");
                }
                Err(error) => {
                    tracing::error!(path, %error, "reload authorization configuration failed; the one before stays in use");
                    self.metrics.reloads.record(None);
                }
            }
            self.file.set_known(text);
        }
    }

    fn chain(&self, text: &str) -> Result<Chain, AuthorizationError> {
        let config = AuthorizationConfig::parse(text)?;
        let own = config.own_types();
        let missing: Vec<&str> = self.required.difference(&own).copied().collect();
        if !missing.is_empty() {
            let why = format!("missing required types: [{}]", missing.join(" "));
            return Err(ConfigError::new(why).into());
        }
        if let Some(new) = own.difference(&self.required).next() {
            let why = format!(
                "authorizer type {new} is not allowed if it was not enabled at initial server startup"
            );
            return Err(ConfigError::new(why).into());
        }
        Chain::new(config, &self.metrics, &self.dialer)
    }
}

//! The authentication configuration: of a file, which is followed while the server runs, or of flags. What cannot be used changes
//! nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::authentication_error::AuthenticationError;
use super::issuers::{ALGORITHMS, Issuers};
use super::remote::RemoteTokens;
use super::token_webhook::TokenWebhook;
use crate::auth_config::{Anonymous, AuthenticationConfig};
use crate::config::{AccessRules, IssuerSource};
use crate::dial::Dialer;
use crate::watched_file::{ReloadMetrics, WatchedFile};

/// How long new issuers have to answer before the configuration that names them is given up until the next look, as upstream.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What requests are authenticated by beside the server's own certificates and tokens.
pub(crate) struct Authentication {
    pub(crate) anonymous: Anonymous,
    pub(crate) remote: Arc<RemoteTokens>,
    /// To follow; `None` without a file.
    pub(crate) file: Option<AuthenticationFile>,
}

pub(crate) struct AuthenticationFile {
    file: WatchedFile,
    metrics: ReloadMetrics,
    /// The issuer of own tokens.
    reserved: String,
    dialer: Dialer,
    /// As the file said at the start; it cannot change, as upstream.
    anonymous: Option<Anonymous>,
}

impl Authentication {
    /// `reserved`: the issuer of own tokens. Issuers are asked for their keys, and waited for later.
    pub(crate) fn start(
        access: &AccessRules,
        reserved: &str,
        metrics: &ReloadMetrics,
        dialer: &Dialer,
    ) -> Result<Authentication, AuthenticationError> {
        let webhook = access.token_webhook.as_ref().map(|it| TokenWebhook::new(it, dialer)).transpose()?;
        let all = ALGORITHMS.map(str::to_owned);
        let (mut file, mut anonymous) = (None, None);
        let issuers = match &access.issuers {
            IssuerSource::None => Issuers::default(),
            IssuerSource::Flags { config, algorithms } => {
                if let Some(bad) = algorithms.iter().find(|name| !all.contains(name)) {
                    return Err(AuthenticationError::Algorithm(bad.clone()));
                }
                Issuers::start(AuthenticationConfig::parse(config, reserved)?, algorithms, dialer)?
            }
            IssuerSource::File(path) => {
                let (opened, config) = AuthenticationFile::open(path, reserved, metrics, dialer)?;
                anonymous = config.anonymous.clone();
                file = Some(opened);
                Issuers::start(config, &all, dialer)?
            }
        };
        let anonymous = match (anonymous, access.anonymous) {
            (Some(_), Some(_)) => {
                return Err(AuthenticationError::Anonymous(
                    "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file",
                ));
            }
            (Some(of_file), None) => of_file,
            (None, flag) => Anonymous::everywhere(flag.unwrap_or(true)),
        };
        Ok(Authentication { anonymous, remote: Arc::new(RemoteTokens::new(issuers, webhook)), file })
    }
}

impl AuthenticationFile {
    fn open(
        path: &Path,
        reserved: &str,
        metrics: &ReloadMetrics,
        dialer: &Dialer,
    ) -> Result<(AuthenticationFile, AuthenticationConfig), AuthenticationError> {
        let file = WatchedFile::open(path)
            .map_err(|error| AuthenticationError::Read { path: path.to_owned(), error })?;
        let config = AuthenticationConfig::parse(file.text(), reserved)?;
        metrics.set_config(file.text());
        let (reserved, anonymous, dialer) = (reserved.to_owned(), config.anonymous.clone(), dialer.clone());
        Ok((AuthenticationFile { file, metrics: metrics.clone(), reserved, dialer, anonymous }, config))
    }

    /// Uses each new text of the file. Never ends.
    pub(crate) async fn follow(mut self, remote: Arc<RemoteTokens>) {
        loop {
            let path = self.file.path().display().to_string();
            let text = match self.file.changed().await {
                Ok(text) => text,
                Err(error) => {
                    self.report(
                        &path,
                        &AuthenticationError::Read { path: self.file.path().to_owned(), error },
                    );
                    continue;
                }
            };
            match self.issuers(&text).await {
                Ok(issuers) => {
                    remote.set_issuers(issuers);
                    self.metrics.record(Some(&text));
                    tracing::info!(path, "authentication configuration reloaded");
                }
                Err(error) => {
                    self.report(&path, &error);
                    if matches!(error, AuthenticationError::NotReady(_)) {
                        // The issuer may answer later: the same text is looked at again.
                        continue;
                    }
                }
            }
            self.file.set_known(text);
        }
    }

    fn report(&self, path: &str, error: &AuthenticationError) {
        tracing::error!(path, %error, "reload authentication configuration failed; the one before stays in use");
        self.metrics.record(None);
    }

    /// The issuers of a new text, once all of them have answered.
    async fn issuers(&self, text: &str) -> Result<Issuers, AuthenticationError> {
        let config = AuthenticationConfig::parse(text, &self.reserved)?;
        if config.anonymous != self.anonymous {
            return Err(AuthenticationError::Anonymous("changed from initial configuration file"));
        }
        let issuers = Issuers::start(config, &ALGORITHMS.map(str::to_owned), &self.dialer)?;
        let ready = issuers.ready(READY_TIMEOUT).await;
        ready.map_err(|error| AuthenticationError::NotReady(error.to_string()))?;
        Ok(issuers)
    }
}

//! Credential providers: programs that give the credentials for pulls (KEP-2133).
//!
//! In: a CredentialProviderConfig, a folder of programs, an image. Out: the credentials of the providers whose patterns match
//! the image, kept for as long as a provider says.

mod cache;
mod pattern;
mod plugin;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use super::access::repository;
use super::normalize;
use crate::cri::api;
use cache::{Cache, Login};
use settings::Provider;
pub use settings::ProviderError;

/// Where the providers are configured and where their programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSettings {
    /// A file, or a folder of files, with a CredentialProviderConfig each.
    pub config: PathBuf,
    pub programs: PathBuf,
}

/// The providers, in the order of their configuration.
#[derive(Default)]
pub(crate) struct CredentialProviders(Vec<Configured>);

struct Configured {
    provider: Provider,
    program: PathBuf,
    cache: Mutex<Cache>,
}

impl CredentialProviders {
    /// Reads the configuration; every provider must have its program.
    pub(crate) fn open(settings: &ProviderSettings) -> Result<CredentialProviders, ProviderError> {
        let providers = settings::read(&settings.config)?;
        let configure = |provider: Provider| {
            let program = program(&settings.programs, &provider.name)?;
            Ok(Configured { provider, program, cache: Mutex::default() })
        };
        providers.into_iter().map(configure).collect::<Result<_, _>>().map(CredentialProviders)
    }

    /// The credentials for the image, the most special first. A provider that fails has none.
    pub(crate) async fn credentials(&self, image: &str) -> Vec<api::AuthConfig> {
        let full = normalize(image);
        let image = repository(&full);
        let mut found = Vec::new();
        for configured in self.0.iter().filter(|configured| configured.provider.matches(image)) {
            match configured.logins(image).await {
                Ok(logins) => found.extend(logins),
                Err(error) => {
                    let provider = &configured.provider.name;
                    tracing::warn!(provider, image, %error, "get credentials from provider failed");
                }
            }
        }
        found.retain(|login| pattern::matches(&login.pattern, image));
        found.sort_by(|a, b| b.pattern.cmp(&a.pattern));
        let auth = |login: Login| api::AuthConfig {
            username: login.username,
            password: login.password,
            ..api::AuthConfig::default()
        };
        found.into_iter().map(auth).collect()
    }
}

impl Configured {
    async fn logins(&self, image: &str) -> Result<Vec<Login>, plugin::PluginError> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cache().get(image, Timestamp::now()) {
            return Ok(known);
        }
        let answer = plugin::run(&self.program, &self.provider, image).await?;
        let lifetime = answer.lifetime.unwrap_or(self.provider.default_lifetime);
        cache().insert(answer.key, image, answer.logins.clone(), lifetime, Timestamp::now());
        Ok(answer.logins)
    }
}

fn program(folder: &Path, name: &str) -> Result<PathBuf, ProviderError> {
    use std::os::unix::fs::PermissionsExt as _;
    let program = folder.join(name);
    let facts = std::fs::metadata(&program)
        .map_err(|source| ProviderError::Read { path: program.clone(), source })?;
    if facts.is_file() && facts.permissions().mode() & 0o111 != 0 {
        Ok(program)
    } else {
        Err(ProviderError::NoProgram(program))
    }
}

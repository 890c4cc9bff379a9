//! TLS towards the endpoints of Ingresses.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::annotations::{EndpointTlsSettings, Unnamed, named};
use super::states::{Parsed, SecretFacts, SecretState, SecretStates};
use crate::backend_tls::{BackendTls, BackendTlsSpec, EndpointCheck, SubjectName, TlsVersions};
use crate::certificate::{Certificate, CertificateError};

/// Certificates between that of an endpoint and an authority's, if no annotation says so.
const DEPTH: usize = 1;

/// What annotations say of it. Backends that agree on it are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EndpointTls {
    pub(super) secret: Option<Arc<str>>,
    verifies: bool,
    depth: usize,
    name: Option<Box<str>>,
    sends_name: bool,
    versions: TlsVersions,
}

/// Why endpoints get no requests.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum EndpointTlsError {
    #[error("there is no annotation proxy-ssl-secret to verify endpoints with")]
    NoSecret,
    #[error("Secret {0} does not exist, or was not read")]
    Missing(Arc<str>),
    #[error("Secret {0} has no ca.crt to verify endpoints with")]
    NoAuthorities(Arc<str>),
    #[error("Secret {0}: {1}")]
    Secret(Arc<str>, CertificateError),
    #[error("{0} is not a name that certificates have")]
    Name(Box<str>),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

impl EndpointTls {
    /// Of the Ingress with this key; `None`: its endpoints are spoken to without TLS.
    pub(super) fn of(settings: &EndpointTlsSettings, key: &str) -> Result<Option<EndpointTls>, Unnamed> {
        if !settings.is_on {
            return Ok(None);
        }
        Ok(Some(EndpointTls {
            secret: settings.secret.as_deref().map(|secret| named(key, secret)).transpose()?,
            verifies: settings.verifies,
            depth: settings.depth.unwrap_or(DEPTH),
            name: settings.name.clone(),
            sends_name: settings.sends_name,
            versions: settings.versions,
        }))
    }

    /// With the endpoints of a Service.
    pub(super) fn make(&self, service: &str, secrets: &SecretStates) -> Result<BackendTls, EndpointTlsError> {
        let facts = self.secret.as_ref().map(|key| found(key, secrets)).transpose()?;
        let name = self.server_name(service)?;
        let check = match (self.verifies, &self.secret, facts) {
            (false, ..) => EndpointCheck::None,
            (true, Some(key), Some(facts)) => {
                let authorities = facts.authorities.as_ref().and_then(Parsed::in_force);
                let authorities = authorities.ok_or_else(|| EndpointTlsError::NoAuthorities(key.clone()))?;
                EndpointCheck::Names(authorities.clone(), vec![SubjectName::Host(name.clone())])
            }
            (true, ..) => return Err(EndpointTlsError::NoSecret),
        };
        let spec = BackendTlsSpec {
            server_name: self.sends_name.then_some(name),
            check,
            max_depth: Some(self.depth),
            identity: self
                .secret
                .as_ref()
                .zip(facts)
                .map(|(key, facts)| identity(key, facts))
                .transpose()?
                .flatten(),
            versions: self.versions,
        };
        Ok(BackendTls::new(spec)?)
    }

    /// For the names of backends: another one for other annotations.
    pub(super) fn id(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn server_name(&self, service: &str) -> Result<ServerName<'static>, EndpointTlsError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                let (namespace, name) = service.split_once('/').unwrap_or_default();
                format!("{name}.{namespace}.svc").into()
            }
        };
        ServerName::try_from(name.to_string()).map_err(|_| EndpointTlsError::Name(name))
    }
}

fn found<'s>(key: &Arc<str>, secrets: &'s SecretStates) -> Result<&'s SecretFacts, EndpointTlsError> {
    match secrets.get(key) {
        Some(SecretState::Found(facts)) => Ok(facts),
        Some(SecretState::Missing) | None => Err(EndpointTlsError::Missing(key.clone())),
    }
}

/// `None`: the Secret has authorities only.
fn identity(key: &Arc<str>, facts: &SecretFacts) -> Result<Option<Arc<Certificate>>, EndpointTlsError> {
    match (&facts.certificate, &facts.authorities) {
        (Parsed::Good(certificate) | Parsed::Bad(_, Some(certificate)), _) => Ok(Some(certificate.clone())),
        (Parsed::Bad(_, None), Some(_)) => Ok(None),
        (Parsed::Bad(error, None), None) => Err(EndpointTlsError::Secret(key.clone(), error.clone())),
    }
}

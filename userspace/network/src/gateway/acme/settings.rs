//! Which authority certificates are ordered from, and how.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use skep_gateway::acme::Pace;

/// Why certificates cannot be ordered.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    #[error("the CA file has no certificate in PEM")]
    Authorities,
    #[error("set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// An authority, and how it is asked.
#[derive(Clone)]
pub struct AcmeSettings {
    /// Its directory's URL. Its terms are agreed to.
    pub directory: String,
    /// URLs at which it reaches whom the certificates belong to, as `mailto:`.
    pub contacts: Vec<String>,
    pub pace: Pace,
    pub(super) tls: ClientConfig,
}

impl AcmeSettings {
    /// `authorities`: PEM of those that may have signed the directory's certificate, in place of the machine's.
    pub fn new(
        directory: String,
        contacts: Vec<String>,
        authorities: Option<&[u8]>,
    ) -> Result<AcmeSettings, AcmeError> {
        let tls = match authorities {
            None => (*skep_dns::tls::client_config()?).clone(),
            Some(pem) => {
                let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
                let found = found.ok().filter(|found| !found.is_empty()).ok_or(AcmeError::Authorities)?;
                let mut roots = RootCertStore::empty();
                found.into_iter().try_for_each(|root| roots.add(root))?;
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let config =
                    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
                config.with_root_certificates(roots).with_no_client_auth()
            }
        };
        Ok(AcmeSettings { directory, contacts, pace: Pace::default(), tls })
    }
}

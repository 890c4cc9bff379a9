//! Certificates of authorities, with which those of clients and of endpoints are verified. PURE but for [`Authorities::of_system`].

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

/// The key of ConfigMaps and Secrets that has the certificates, in PEM.
pub const CERTIFICATES_KEY: &str = "ca.crt";
/// The key of Secrets that has revocation lists, in PEM.
pub const REVOCATIONS_KEY: &str = "ca.crl";

/// Why certificates of authorities cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("ca.crt has no certificate in PEM")]
    NoCertificate,
    #[error("certificate {0} of ca.crt does not parse")]
    Certificate(usize),
    #[error("ca.crl has no revocation list in PEM")]
    Revocations,
}

/// The certificates of some authorities, and what they revoked.
pub struct Authorities {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) revocations: Vec<CertificateRevocationListDer<'static>>,
    /// Of all of it.
    identity: Digest,
}

/// Those of the machine, read once.
static OF_SYSTEM: LazyLock<Arc<Authorities>> = LazyLock::new(|| {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "read certificates of the machine's authorities failed in part");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    Arc::new(Authorities { roots: Arc::new(roots), revocations: Vec::new(), identity: digest(&SHA256, b"") })
});

impl Authorities {
    /// Certificates in PEM, and revocation lists in PEM if there are any.
    pub fn parse(certificates: &[u8], revocations: Option<&[u8]>) -> Result<Authorities, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        for (at, certificate) in (1..).zip(CertificateDer::pem_slice_iter(certificates)) {
            let certificate = certificate.map_err(|_| AuthoritiesError::Certificate(at))?;
            roots.add(certificate).map_err(|_| AuthoritiesError::Certificate(at))?;
        }
        if roots.is_empty() {
            return Err(AuthoritiesError::NoCertificate);
        }
        let lists = revocations.map(|pem| CertificateRevocationListDer::pem_slice_iter(pem).collect());
        let lists: Result<Vec<_>, _> = lists.unwrap_or_else(|| Ok(Vec::new()));
        let lists = lists.map_err(|_| AuthoritiesError::Revocations)?;
        if revocations.is_some() && lists.is_empty() {
            return Err(AuthoritiesError::Revocations);
        }
        let parts = [certificates, revocations.unwrap_or_default()];
        let identity = digest(&SHA256, &parts.map(|part| digest(&SHA256, part)).map(digest_bytes).concat());
        Ok(Authorities { roots: Arc::new(roots), revocations: lists, identity })
    }

    /// All that one of these trusts, and all that one of these revoked. `None`: there are none.
    pub(crate) fn union(all: Vec<Arc<Authorities>>) -> Option<Arc<Authorities>> {
        if all.len() < 2 {
            return all.into_iter().next();
        }
        let mut roots = RootCertStore::empty();
        roots.extend(all.iter().flat_map(|one| one.roots.roots.iter().cloned()));
        let revocations = all.iter().flat_map(|one| one.revocations.iter().cloned()).collect();
        let identities: Vec<u8> = all.iter().flat_map(|one| digest_bytes(one.identity)).collect();
        let identity = digest(&SHA256, &identities);
        Some(Arc::new(Authorities { roots: Arc::new(roots), revocations, identity }))
    }

    /// Those that the machine trusts.
    pub fn of_system() -> Arc<Authorities> {
        OF_SYSTEM.clone()
    }
}

fn digest_bytes(digest: Digest) -> Vec<u8> {
    digest.as_ref().to_vec()
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Authorities) -> bool {
        self.identity.as_ref() == other.identity.as_ref()
    }
}

impl Eq for Authorities {}

impl Hash for Authorities {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.as_ref().hash(state);
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Authorities").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn authority() -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn every_certificate_must_parse_and_there_must_be_one() {
        let (one, two) = (authority(), authority());
        let parse = |pem: &str| Authorities::parse(pem.as_bytes(), None);
        assert_eq!(parse(&format!("{one}{two}")).unwrap().roots.len(), 2);
        assert_eq!(parse(&one).unwrap(), parse(&one).unwrap());
        assert_ne!(parse(&one).unwrap(), parse(&two).unwrap());
        assert_eq!(parse("").unwrap_err(), AuthoritiesError::NoCertificate);
        let broken = format!("{one}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert_eq!(parse(&broken).unwrap_err(), AuthoritiesError::Certificate(2));
        let with_list = Authorities::parse(one.as_bytes(), Some(b"nothing"));
        assert_eq!(with_list.unwrap_err(), AuthoritiesError::Revocations);
    }
}

//! Certificates that listeners present. PURE. In: PEM of a Secret of type `kubernetes.io/tls`. Out: a key that signs.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate cannot be presented.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CertificateError {
    #[error("tls.crt has no certificate in PEM")]
    Chain,
    #[error("tls.key has no private key in PEM")]
    Key,
    #[error("the first certificate of tls.crt does not parse")]
    Leaf,
    #[error("tls.key does not serve: {0}")]
    Pair(#[from] rustls::Error),
    #[error("the certificate of tls.crt expired at {}", jiff::Timestamp::from_second(*.0).unwrap_or_default())]
    Expired(i64),
}

/// A chain with its key.
pub struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    /// Seconds since 1970 at which the leaf expires.
    pub not_after: i64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Parses the chain and the key, which must belong together.
    pub fn parse(chain: &[u8], key: &[u8]) -> Result<Certificate, CertificateError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|_| CertificateError::Chain)?;
        let leaf = chain.first().ok_or(CertificateError::Chain)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Leaf)?;
        let not_after = parsed.validity().not_after.timestamp();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider)?;
        Ok(Certificate { key: Arc::new(key), not_after })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_pair_must_belong_together() {
        let pair = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((chain, key), (_, other)) = (pair(), pair());
        let parse = |chain: &str, key: &str| Certificate::parse(chain.as_bytes(), key.as_bytes());
        assert!(parse(&chain, &key).unwrap().not_after > 1_700_000_000);
        assert!(matches!(parse(&chain, &other), Err(CertificateError::Pair(_))));
        assert_eq!(parse("", &key).unwrap_err(), CertificateError::Chain);
        assert_eq!(
            parse("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", &key).unwrap_err(),
            CertificateError::Leaf
        );
        assert_eq!(parse(&chain, "x").unwrap_err(), CertificateError::Key);
    }
}

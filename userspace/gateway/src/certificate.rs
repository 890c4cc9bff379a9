//! Certificates that listeners present. PURE. In: PEM of a Secret of type `kubernetes.io/tls`. Out: a key that signs.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::staple::{Staple, StapleError};

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

/// The same chain and key, with a response of OCSP.
pub(crate) struct Stapled {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970 from which the response does not count any more.
    pub(crate) not_after: i64,
}

impl PartialEq for Stapled {
    fn eq(&self, other: &Stapled) -> bool {
        self.key.ocsp == other.key.ocsp
    }
}

/// A chain with its key.
pub struct Certificate {
    pub(crate) key: Arc<CertifiedKey>,
    serial: Vec<u8>,
    /// `None`: the Secret has none.
    pub(crate) staple: Option<Result<Stapled, StapleError>>,
    /// Seconds since 1970 at which the leaf expires.
    pub not_after: i64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Equal chains have equal keys.
impl PartialEq for Certificate {
    fn eq(&self, other: &Certificate) -> bool {
        self.key.cert == other.key.cert && self.staple == other.staple
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
        let serial = parsed.tbs_certificate.raw_serial().to_vec();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider)?;
        Ok(Certificate { key: Arc::new(key), serial, staple: None, not_after })
    }

    /// The same with a response of OCSP in DER, which is presented while it counts.
    #[must_use]
    pub fn stapled(self, response: &[u8]) -> Certificate {
        let staple = Staple::parse(response, &self.serial).map(|Staple { der, not_after }| {
            let key = CertifiedKey { ocsp: Some(der), ..(*self.key).clone() };
            Stapled { key: Arc::new(key), not_after }
        });
        Certificate { staple: Some(staple), ..self }
    }

    /// What is presented at `now`, in seconds since 1970.
    pub(crate) fn key_at(&self, now: i64) -> &Arc<CertifiedKey> {
        match &self.staple {
            Some(Ok(stapled)) if stapled.not_after > now => &stapled.key,
            _ => &self.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_staple_is_presented_until_its_end() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from(vec![1, 2, 3]));
        let chain = params.self_signed(&key).unwrap().pem();
        let parse = || Certificate::parse(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let response = crate::staple::tests::response(&[1, 2, 3], 0x80, Some("20270115080000Z"));
        let stapled = parse().stapled(&response);
        assert_eq!(stapled.key_at(1_799_999_999).ocsp.as_ref(), Some(&response));
        assert_eq!(stapled.key_at(1_800_000_000).ocsp, None);
        let of_another =
            parse().stapled(&crate::staple::tests::response(&[4], 0x80, Some("20270115080000Z")));
        assert!(matches!(of_another.staple, Some(Err(StapleError::OtherCertificate))));
        assert_eq!(of_another.key_at(0).ocsp, None);
    }

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

//! TLS configurations of this server as a client: the CAs that it trusts and the certificate that it presents.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Bundles of public CAs on common distributions.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0} is not PEM as expected")]
    Pem(&'static str),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The certificates that are trusted.
pub(crate) enum Trust<'a> {
    /// A PEM bundle of CAs, and its name for errors.
    Bundle(&'a [u8], &'static str),
    System,
    /// Certificates are not verified.
    Unverified,
}

/// A client certificate with its key.
pub(crate) struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientCertificate {
    /// From PEM; `what` names it in errors.
    pub(crate) fn read(certificate: &str, key: &str, what: &'static str) -> Result<Self, TlsError> {
        let bad = |_| TlsError::Pem(what);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        Ok(ClientCertificate {
            chain: chain.map_err(bad)?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(bad)?,
        })
    }
}

pub(crate) fn client(
    trust: Trust<'_>,
    certificate: Option<&ClientCertificate>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Bundle(pem, what) => builder.with_root_certificates(roots(pem, what)?),
        Trust::System => builder.with_root_certificates(system_roots()),
        Trust::Unverified => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified { provider }))
        }
    };
    Ok(Arc::new(match certificate {
        Some(shown) => builder.with_client_auth_cert(shown.chain.clone(), shown.key.clone_key())?,
        None => builder.with_no_client_auth(),
    }))
}

/// Trusts the CAs of a `caBundle` in base64; the system's if it is empty.
pub(crate) fn of_bundle(
    bundle: &str,
    certificate: Option<&ClientCertificate>,
) -> Result<Arc<ClientConfig>, String> {
    let pem = STANDARD.decode(bundle).map_err(|_| "the caBundle is not base64".to_owned())?;
    let trust = if bundle.is_empty() { Trust::System } else { Trust::Bundle(&pem, "the caBundle") };
    client(trust, certificate).map_err(|error| error.to_string())
}

fn roots(pem: &[u8], what: &'static str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|_| TlsError::Pem(what))?)?;
    }
    Ok(roots)
}

/// Certificates that cannot be parsed are skipped.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let pem = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    roots
}

/// Accepts any certificate whose key the peer has.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

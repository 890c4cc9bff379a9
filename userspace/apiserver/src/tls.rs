//! TLS configurations of this server as a client: the CAs that it trusts and the certificate that it presents.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

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
        Trust::Bundle(pem, what) => {
            let verifier = Listed::new(pem, what, provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
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

/// Trusts chains up to a certificate of a bundle, and as Go does a server whose own certificate is in the bundle: be it a
/// CA, as many webhooks make one, or the leaf of an issuer that is not there.
#[derive(Debug)]
struct Listed {
    bundle: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl Listed {
    fn new(pem: &[u8], what: &'static str, provider: Arc<CryptoProvider>) -> Result<Listed, TlsError> {
        let bundle: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let bundle = bundle.map_err(|_| TlsError::Pem(what))?;
        let mut roots = RootCertStore::empty();
        for certificate in &bundle {
            roots.add(certificate.clone())?;
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let chains = chains.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Listed { bundle, chains })
    }
}

impl ServerCertVerifier for Listed {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.bundle.iter().any(|listed| listed == certificate) {
            return self.chains.verify_server_cert(certificate, intermediates, name, stapled, now);
        }
        check_itself(certificate, now)?;
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// What a trusted certificate says about itself: the time in which it is valid, and that it is for servers.
fn check_itself(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    match parsed.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.any || usage.value.server_auth => Ok(()),
        _ => Err(CertificateError::InvalidPurpose),
    }
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

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };

    use super::*;

    fn params() -> CertificateParams {
        CertificateParams::new(vec!["web.test.svc".to_owned()]).unwrap()
    }

    fn authority(mut params: CertificateParams) -> (String, Issuer<'static, KeyPair>) {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        (certificate, Issuer::new(params, key))
    }

    fn leaf(issuer: &Issuer<'static, KeyPair>, params: &CertificateParams) -> String {
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().pem()
    }

    fn verified(bundle: &str, shown: &str, name: &'static str) -> Result<(), String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let listed = Listed::new(bundle.as_bytes(), "the bundle", provider).unwrap();
        let shown = CertificateDer::from_pem_slice(shown.as_bytes()).unwrap();
        let (name, now) = (name.try_into().unwrap(), UnixTime::now());
        listed.verify_server_cert(&shown, &[], &name, &[], now).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_in_the_bundle_is_trusted_for_its_names_its_time_and_its_purpose() {
        let (ca, issuer) = authority(params());
        let mut named = params();
        named.distinguished_name.push(DnType::CommonName, "other");
        let (other, _) = authority(named);
        let good = leaf(&issuer, &params());
        let name = "web.test.svc";
        assert_eq!(verified(&ca, &good, name), Ok(()), "a chain");
        assert_eq!(verified(&ca, &ca, name), Ok(()), "a CA that serves");
        assert_eq!(verified(&good, &good, name), Ok(()), "a leaf whose issuer is not in the bundle");
        assert_eq!(verified(&format!("{other}{good}"), &good, name), Ok(()), "one of several");
        let refused = |bundle: &str, shown: &str, name| verified(bundle, shown, name).unwrap_err();
        assert!(refused(&other, &good, name).contains("UnknownIssuer"));
        assert!(refused(&ca, &ca, "other.test.svc").contains("not valid for name"));
        let mut expired = params();
        expired.not_after = date_time_ymd(2020, 1, 1);
        let expired = leaf(&issuer, &expired);
        assert!(refused(&expired, &expired, name).contains("Expired"));
        let mut early = params();
        early.not_before = date_time_ymd(2999, 1, 1);
        let early = leaf(&issuer, &early);
        assert!(refused(&early, &early, name).contains("NotValidYet"));
        let mut client = params();
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client = leaf(&issuer, &client);
        assert!(refused(&client, &client, name).contains("InvalidPurpose"));
    }
}

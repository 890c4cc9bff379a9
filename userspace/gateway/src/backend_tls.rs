//! TLS towards endpoints: which certificates they may present, and which one the gateway presents. PURE.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authorities::Authorities;
use crate::certificate::Certificate;
use crate::crypto;

/// A name that a certificate may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectName {
    Host(ServerName<'static>),
    /// Compared as it is written, such as `spiffe://example.com/backend`.
    Uri(Box<str>),
}

/// What a certificate of an endpoint has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointCheck {
    /// Anything: connections are encrypted, to an endpoint that is not verified.
    None,
    /// Of one of the authorities, with at least one of the names.
    Names(Arc<Authorities>, Vec<SubjectName>),
}

/// Versions of TLS that are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsVersions {
    #[default]
    Both,
    Only12,
    Only13,
}

static ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl TlsVersions {
    fn offered(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            TlsVersions::Both => rustls::DEFAULT_VERSIONS,
            TlsVersions::Only12 => ONLY_12,
            TlsVersions::Only13 => ONLY_13,
        }
    }
}

/// What an endpoint is said and asked in a handshake.
#[derive(Clone, Debug)]
pub struct BackendTlsSpec {
    /// `None`: the handshake has no name.
    pub server_name: Option<ServerName<'static>>,
    pub check: EndpointCheck,
    /// The most certificates between that of an endpoint and an authority's; `None`: no bound.
    pub max_depth: Option<usize>,
    /// What the gateway presents if it is asked for a certificate.
    pub identity: Option<Arc<Certificate>>,
    pub versions: TlsVersions,
}

/// TLS towards the endpoints of a backend. Connections to an endpoint are shared by backends whose specs are equal.
pub struct BackendTls {
    spec: BackendTlsSpec,
    /// For HTTP/1.1, and for streams.
    pub(crate) http_1: Arc<ClientConfig>,
    pub(crate) http_2: Arc<ClientConfig>,
}

impl BackendTls {
    pub fn new(spec: BackendTlsSpec) -> Result<BackendTls, Error> {
        let verifier = Arc::new(Verifier { check: spec.check.clone(), max_depth: spec.max_depth });
        let builder = ClientConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(spec.versions.offered())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut http_1 = match &spec.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(Identity(identity.key.clone()))),
            None => builder.with_no_client_auth(),
        };
        http_1.enable_sni = spec.server_name.is_some();
        let mut http_2 = http_1.clone();
        // Sessions that were opened for one protocol are not resumed for the other.
        http_2.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS);
        http_2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(BackendTls { spec, http_1: Arc::new(http_1), http_2: Arc::new(http_2) })
    }

    /// The same with another certificate to present.
    pub(crate) fn with_identity(&self, identity: &Arc<Certificate>) -> Result<BackendTls, Error> {
        BackendTls::new(BackendTlsSpec { identity: Some(identity.clone()), ..self.spec.clone() })
    }

    /// The name for a handshake with an endpoint at the address; it is sent only if there is one.
    pub(crate) fn server_name(&self, address: std::net::IpAddr) -> ServerName<'static> {
        self.spec.server_name.clone().unwrap_or_else(|| ServerName::from(address))
    }
}

/// Sessions that are kept to be resumed.
const SESSIONS: usize = 256;

impl PartialEq for BackendTls {
    fn eq(&self, other: &BackendTls) -> bool {
        let (a, b) = (&self.spec, &other.spec);
        let same_identity = match (&a.identity, &b.identity) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_identity
            && a.server_name == b.server_name
            && a.check == b.check
            && a.max_depth == b.max_depth
            && a.versions == b.versions
    }
}

impl Eq for BackendTls {}

impl Hash for BackendTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.server_name.hash(state);
        self.spec.check.hash(state);
        self.spec.max_depth.hash(state);
        self.spec.identity.as_ref().map(Arc::as_ptr).hash(state);
    }
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("BackendTls").field(&self.spec).finish()
    }
}

#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).is_some().then(|| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Verifier {
    check: EndpointCheck,
    max_depth: Option<usize>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let EndpointCheck::Names(authorities, names) = &self.check else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.max_depth.is_some_and(|max| others.len() > max) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let algorithms = crypto::provider().signature_verification_algorithms;
        let parsed = ParsedCertificate::try_from(leaf)?;
        let roots = &authorities.roots;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, algorithms.all)?;
        let has = |name: &SubjectName| match name {
            SubjectName::Host(name) => verify_server_name(&parsed, name).is_ok(),
            SubjectName::Uri(uri) => has_uri(leaf, uri),
        };
        match names.iter().any(has) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto::provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto::provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::provider().signature_verification_algorithms.supported_schemes()
    }
}

fn has_uri(leaf: &CertificateDer<'_>, uri: &str) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(found) if *found == uri))
}

//! How certificates of clients are verified. PURE.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ProducesTickets, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::authorities::Authorities;
use crate::crypto;

/// What becomes of a client without a certificate that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientMode {
    /// It gets no handshake.
    Required,
    /// It gets one; routes may ask whether its certificate verified.
    Optional,
}

/// How certificates of clients are verified. A session of TLS is resumed under the same check only.
pub struct ClientCheck {
    authorities: Arc<Authorities>,
    mode: ClientMode,
    /// The most certificates between that of a client and an authority's.
    max_depth: Option<usize>,
    strict: Arc<dyn ClientCertVerifier>,
    pub(crate) tickets: Arc<dyn ProducesTickets>,
}

/// Checks that are in force. Equal ones are the same, so that sessions of TLS are resumed after a change of something else.
#[derive(Default)]
pub(crate) struct ClientChecks(Mutex<HashMap<CheckKey, Arc<ClientCheck>>>);

type CheckKey = (Arc<Authorities>, ClientMode, Option<usize>);

impl ClientChecks {
    pub(crate) fn get(
        &self,
        authorities: &Arc<Authorities>,
        mode: ClientMode,
        max_depth: Option<usize>,
    ) -> Result<Arc<ClientCheck>, ClientCheckError> {
        let key = (authorities.clone(), mode, max_depth);
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&key) {
            return Ok(known.clone());
        }
        let new = Arc::new(ClientCheck::new(authorities.clone(), mode, max_depth)?);
        made.insert(key, new.clone());
        Ok(new)
    }

    /// Forgets those that nothing else has.
    pub(crate) fn forget_unused(&self) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, check| Arc::strong_count(check) > 1);
    }
}

/// What is known of a client that was asked for a certificate.
pub(crate) struct CheckedClient {
    pub(crate) check: Arc<ClientCheck>,
    pub(crate) verdict: ClientVerdict,
    pub(crate) leaf: Option<CertificateDer<'static>>,
}

/// Why clients cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum ClientCheckError {
    #[error("certificates of authorities: {0}")]
    Authorities(#[from] VerifierBuilderError),
    #[error("{0}")]
    Tickets(#[from] Error),
}

/// What a client's certificate is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientVerdict {
    Verified,
    Absent,
    Refused(String),
}

impl ClientCheck {
    pub fn new(
        authorities: Arc<Authorities>,
        mode: ClientMode,
        max_depth: Option<usize>,
    ) -> Result<ClientCheck, ClientCheckError> {
        let strict =
            WebPkiClientVerifier::builder_with_provider(authorities.roots.clone(), crypto::provider())
                .with_crls(authorities.revocations.iter().cloned())
                .allow_unknown_revocation_status()
                .build()?;
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(ClientCheck { authorities, mode, max_depth, strict, tickets })
    }

    /// For a handshake.
    pub(crate) fn verifier(self: &Arc<Self>) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Verifier(self.clone()))
    }

    /// Who is at the other end of a handshake under this check. `None`: a client that may not come in. In a session that is resumed the chain
    /// is that of the first handshake, which may have expired.
    pub(crate) fn admit(self: &Arc<Self>, chain: Option<&[CertificateDer<'_>]>) -> Option<CheckedClient> {
        let verdict = match chain {
            Some([leaf, others @ ..]) => match self.verify(leaf, others, UnixTime::now()) {
                Ok(_) => ClientVerdict::Verified,
                Err(error) => ClientVerdict::Refused(error.to_string()),
            },
            _ => ClientVerdict::Absent,
        };
        if self.mode == ClientMode::Required && verdict != ClientVerdict::Verified {
            return None;
        }
        let leaf = chain.and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
        Some(CheckedClient { check: self.clone(), verdict, leaf })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.max_depth.is_some_and(|max| others.len() > max) {
            return Err(Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
        }
        self.strict.verify_client_cert(leaf, others, now)
    }
}

impl PartialEq for ClientCheck {
    fn eq(&self, other: &ClientCheck) -> bool {
        let parts = |check: &ClientCheck| (check.authorities.clone(), check.mode, check.max_depth);
        parts(self) == parts(other)
    }
}

impl Eq for ClientCheck {}

impl fmt::Debug for ClientCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClientCheck")
            .field("authorities", &self.authorities)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Verifier(Arc<ClientCheck>);

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.strict.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.mode == ClientMode::Required
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.mode {
            ClientMode::Required => self.0.verify(leaf, others, now),
            // Routes ask for the verdict.
            ClientMode::Optional => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.strict.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.strict.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.strict.supported_verify_schemes()
    }
}

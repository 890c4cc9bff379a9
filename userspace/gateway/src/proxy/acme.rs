//! Challenges of ACME: over HTTP a text, over TLS a certificate that names nothing but the challenge.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::Method;
use http::request::Parts;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::snapshot::Snapshot;
use crate::acme::ALPN;
use crate::routing::Target;

/// RFC 8555, 8.3.
const PATH: &str = "/.well-known/acme-challenge/";

/// The answer to a request without TLS, if it is for a challenge of the moment. Other requests for the path have routes.
pub(super) fn answer(snapshot: &Snapshot, target: &Target<'_>, head: &Parts) -> Option<Arc<str>> {
    let token = head.uri.path().strip_prefix(PATH)?;
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return None;
    }
    snapshot.challenges.http(&target.host, token).cloned()
}

/// Whether a client wants nothing but to validate a name (RFC 8737, 3).
pub(super) fn validates<'a>(mut protocols: impl Iterator<Item = &'a [u8]>) -> bool {
    protocols.next() == Some(ALPN) && protocols.next().is_none()
}

/// The certificate for the handshake of a challenge (RFC 8737, 3), made for this connection.
pub(super) fn certificate(snapshot: &Snapshot, name: &str) -> Option<Arc<CertifiedKey>> {
    let key_authorization = snapshot.challenges.tls_alpn(name)?;
    match make(name, key_authorization) {
        Ok(key) => Some(Arc::new(key)),
        Err(error) => {
            tracing::warn!(name, %error, "make the certificate of a challenge failed");
            None
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Key(#[from] rustls::Error),
}

fn make(name: &str, key_authorization: &str) -> Result<CertifiedKey, MakeError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    let digest = digest(&SHA256, key_authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Its check of the pair would refuse the extension, which is critical.
    let key = provider.key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

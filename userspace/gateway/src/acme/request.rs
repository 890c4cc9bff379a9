//! What annotations of an Ingress, a Gateway or a ListenerSet ask for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::wanted::Fault;

/// `true`: the Secrets that the object names for TLS are ordered by ACME.
pub const ANNOTATION: &str = "skep.io/acme";
/// `http-01` or `tls-alpn-01`.
pub const CHALLENGE_ANNOTATION: &str = "skep.io/acme-challenge";

/// How a name is validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChallengeKind {
    /// RFC 8555, 8.3.
    Http,
    /// RFC 8737.
    TlsAlpn,
}

impl ChallengeKind {
    pub fn name(self) -> &'static str {
        match self {
            ChallengeKind::Http => "http-01",
            ChallengeKind::TlsAlpn => "tls-alpn-01",
        }
    }

    pub fn parse(name: &str) -> Option<ChallengeKind> {
        [ChallengeKind::Http, ChallengeKind::TlsAlpn].into_iter().find(|kind| kind.name() == name)
    }
}

/// An object's wish for certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// `None`: what the object's listeners allow.
    pub(crate) challenge: Result<Option<ChallengeKind>, Fault>,
}

impl Request {
    /// `None`: the object asks for nothing.
    pub(crate) fn parse(meta: &ObjectMeta) -> Option<Request> {
        let annotation = |name: &str| meta.annotations.as_ref()?.get(name).map(String::as_str);
        let invalid = |name, value: &str| Fault::Annotation(name, value.to_owned());
        let challenge = match (annotation(ANNOTATION)?, annotation(CHALLENGE_ANNOTATION)) {
            ("false", _) => return None,
            ("true", None) => Ok(None),
            ("true", Some(name)) => match ChallengeKind::parse(name) {
                Some(kind) => Ok(Some(kind)),
                None => Err(invalid(CHALLENGE_ANNOTATION, name)),
            },
            (value, _) => Err(invalid(ANNOTATION, value)),
        };
        Some(Request { challenge })
    }
}

//! What of an Ingress cannot be served.

use std::fmt;
use std::sync::Arc;

use super::annotations::Finding;
use crate::certificate::CertificateError;
use crate::routing::PathError;
use crate::staple::StapleError;

/// A part of an Ingress that has no effect, or answers 503.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// NAMESPACE/NAME of the Ingress.
    pub ingress: Arc<str>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ResourceBackend,
    NoService(Arc<str>),
    NoPort(Arc<str>, Box<str>),
    ExternalName(Arc<str>),
    NoSecret(Arc<str>),
    BadSecret(Arc<str>, String),
    Expired(Arc<str>, String),
    /// The response of OCSP that a Secret has.
    BadStaple(Arc<str>, String),
    BadPath(Box<str>, String),
    Duplicate(Box<str>, Arc<str>),
    Annotation(Finding),
    /// A canary without an Ingress that it is a part of.
    LoneCanary(Box<str>),
    /// The Secret of the users, and why it cannot be used.
    BadUsers(Arc<str>, String),
    /// The Secret with authorities for clients, and why it cannot be used.
    BadClients(Box<str>, String),
    /// The ConfigMap with headers, and why it cannot be used.
    BadHeaders(Box<str>, String),
    /// The Service whose endpoints cannot be spoken to over TLS, and why.
    BadEndpointTls(Arc<str>, String),
}

impl Problem {
    fn new(ingress: &Arc<str>, kind: Kind) -> Problem {
        Problem { ingress: ingress.clone(), kind }
    }

    pub(super) fn resource_backend(ingress: &Arc<str>) -> Problem {
        Problem::new(ingress, Kind::ResourceBackend)
    }

    pub(super) fn no_service(ingress: &Arc<str>, service: &Arc<str>) -> Problem {
        Problem::new(ingress, Kind::NoService(service.clone()))
    }

    pub(super) fn no_port(ingress: &Arc<str>, service: &Arc<str>, port: impl fmt::Display) -> Problem {
        Problem::new(ingress, Kind::NoPort(service.clone(), port.to_string().into()))
    }

    pub(super) fn external_name(ingress: &Arc<str>, service: &Arc<str>) -> Problem {
        Problem::new(ingress, Kind::ExternalName(service.clone()))
    }

    pub(super) fn no_secret(ingress: &Arc<str>, secret: &Arc<str>) -> Problem {
        Problem::new(ingress, Kind::NoSecret(secret.clone()))
    }

    pub(super) fn bad_secret(ingress: &Arc<str>, secret: &Arc<str>, error: &CertificateError) -> Problem {
        Problem::new(ingress, Kind::BadSecret(secret.clone(), error.to_string()))
    }

    pub(super) fn expired(ingress: &Arc<str>, secret: &Arc<str>, at: i64) -> Problem {
        Problem::new(ingress, Kind::Expired(secret.clone(), CertificateError::Expired(at).to_string()))
    }

    pub(super) fn bad_staple(ingress: &Arc<str>, secret: &Arc<str>, error: &StapleError) -> Problem {
        Problem::new(ingress, Kind::BadStaple(secret.clone(), error.to_string()))
    }

    /// `at`: in seconds since 1970.
    pub(super) fn staple_expired(ingress: &Arc<str>, secret: &Arc<str>, at: i64) -> Problem {
        let at = jiff::Timestamp::from_second(at).unwrap_or_default();
        let error = format!("the OCSP response of tls.ocsp-staple counts until {at} only");
        Problem::new(ingress, Kind::BadStaple(secret.clone(), error))
    }

    pub(super) fn bad_path(ingress: &Arc<str>, path: &str, error: PathError) -> Problem {
        Problem::new(ingress, Kind::BadPath(path.into(), error.to_string()))
    }

    pub(super) fn bad_pattern(ingress: &Arc<str>, path: &str, error: impl fmt::Display) -> Problem {
        Problem::new(ingress, Kind::BadPath(path.into(), error.to_string()))
    }

    pub(super) fn annotation(ingress: &Arc<str>, finding: Finding) -> Problem {
        Problem::new(ingress, Kind::Annotation(finding))
    }

    pub(super) fn lone_canary(ingress: &Arc<str>, rule: String) -> Problem {
        Problem::new(ingress, Kind::LoneCanary(rule.into()))
    }

    pub(super) fn bad_users(ingress: &Arc<str>, secret: &Arc<str>, error: impl fmt::Display) -> Problem {
        Problem::new(ingress, Kind::BadUsers(secret.clone(), error.to_string()))
    }

    pub(super) fn bad_clients(ingress: &Arc<str>, secret: &str, error: impl fmt::Display) -> Problem {
        Problem::new(ingress, Kind::BadClients(secret.into(), error.to_string()))
    }

    pub(super) fn bad_headers(ingress: &Arc<str>, config_map: &str, error: impl fmt::Display) -> Problem {
        Problem::new(ingress, Kind::BadHeaders(config_map.into(), error.to_string()))
    }

    pub(super) fn bad_endpoint_tls(
        ingress: &Arc<str>,
        service: &Arc<str>,
        error: impl fmt::Display,
    ) -> Problem {
        Problem::new(ingress, Kind::BadEndpointTls(service.clone(), error.to_string()))
    }

    pub(super) fn duplicate(ingress: &Arc<str>, rule: String, older: &Arc<str>) -> Problem {
        Problem::new(ingress, Kind::Duplicate(rule.into(), older.clone()))
    }

    /// In one word, as Events have it.
    pub fn reason(&self) -> &'static str {
        match &self.kind {
            Kind::ResourceBackend => "ResourceBackend",
            Kind::NoService(_) => "ServiceNotFound",
            Kind::NoPort(..) => "ServicePortNotFound",
            Kind::ExternalName(_) => "ExternalNameService",
            Kind::NoSecret(_) => "SecretNotFound",
            Kind::BadSecret(..) => "InvalidCertificate",
            Kind::Expired(..) => "CertificateExpired",
            Kind::BadStaple(..) => "InvalidStaple",
            Kind::BadPath(..) => "InvalidPath",
            Kind::Duplicate(..) => "DuplicateRule",
            Kind::Annotation(finding) => finding.reason(),
            Kind::LoneCanary(_) => "LoneCanary",
            Kind::BadUsers(..) => "InvalidUsers",
            Kind::BadClients(..) => "InvalidAuthorities",
            Kind::BadHeaders(..) => "InvalidHeaders",
            Kind::BadEndpointTls(..) => "InvalidBackendTLS",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Ingress {}: ", self.ingress)?;
        match &self.kind {
            Kind::ResourceBackend => {
                out.write_str("a backend is a resource; only Services are served, requests for it get 503")
            }
            Kind::NoService(service) => {
                write!(out, "Service {service} does not exist; requests for it get 503")
            }
            Kind::NoPort(service, port) => {
                write!(out, "Service {service} has no TCP port {port}; requests for it get 503")
            }
            Kind::ExternalName(service) => {
                write!(
                    out,
                    "Service {service} is an ExternalName, which is not served; requests for it get 503"
                )
            }
            Kind::NoSecret(secret) => {
                write!(out, "Secret {secret} does not exist; its hosts have no certificate")
            }
            Kind::BadSecret(secret, error) => {
                write!(out, "Secret {secret}: {error}; the last certificate that was valid stays in force")
            }
            Kind::Expired(secret, error) => {
                write!(out, "Secret {secret}: {error}; it is presented until the Secret has another one")
            }
            Kind::BadStaple(secret, error) => {
                write!(out, "Secret {secret}: {error}; its certificate is presented without it")
            }
            Kind::BadPath(path, error) => write!(out, "path {path} matches no request: {error}"),
            Kind::Annotation(finding) => finding.fmt(out),
            Kind::LoneCanary(rule) => {
                write!(out, "the rule {rule} is of a canary, and no other Ingress has that host and path")
            }
            Kind::BadUsers(secret, error) => {
                write!(out, "the users in Secret {secret}: {error}; requests for the Ingress get 503")
            }
            Kind::BadClients(secret, error) => {
                write!(
                    out,
                    "the authorities for clients in Secret {secret}: {error}; requests for the Ingress get 503"
                )
            }
            Kind::BadHeaders(config_map, error) => {
                write!(
                    out,
                    "the headers in ConfigMap {config_map}: {error}; requests for the Ingress get 503"
                )
            }
            Kind::BadEndpointTls(service, error) => {
                write!(out, "TLS to the endpoints of Service {service}: {error}; requests for it get 503")
            }
            Kind::Duplicate(rule, older) => {
                write!(out, "the rule {rule} has no effect; Ingress {older} is older")
            }
        }
    }
}

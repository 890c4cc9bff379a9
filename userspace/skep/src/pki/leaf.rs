//! End-entity certificates: their specification, and whether a certificate matches it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer, GeneralName};

use super::error::PkiError;
use super::files::certificates;

/// For a TLS server.
pub(crate) const SERVER: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ServerAuth;
/// For a TLS client.
pub(crate) const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The specification of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub purpose: ExtendedKeyUsagePurpose,
    /// DNS names and IP addresses.
    pub names: BTreeSet<String>,
    pub lifetime: Duration,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertifiedPem {
    pub certificate: String,
    pub key: String,
}

impl Leaf {
    /// A client certificate, valid for a year.
    pub(crate) fn new(common_name: &str, organizations: &[&str]) -> Leaf {
        Leaf {
            common_name: common_name.to_owned(),
            organizations: organizations.iter().map(|name| (*name).to_owned()).collect(),
            purpose: CLIENT,
            names: BTreeSet::new(),
            lifetime: YEAR,
        }
    }

    pub(crate) fn with_names(mut self, names: Vec<String>) -> Leaf {
        self.names = names.into_iter().collect();
        self
    }

    pub(super) fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for organization in &self.organizations {
            params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        for name in &self.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![self.purpose.clone()];
        Ok(params)
    }

    /// Whether a certificate has this subject and these names, is signed by the first CA of the bundle, and need not be
    /// renewed yet.
    pub(crate) fn matches(&self, certificate: &str, bundle: &str) -> bool {
        let first = certificates(bundle).into_iter().next();
        first.is_some_and(|ca| self.has_subject_and_ca(certificate, &ca))
            && due(certificate).is_some_and(|due| due > SystemTime::now())
    }

    /// Whether a certificate of any CA of the bundle matches and is still valid, although it should be renewed.
    pub(crate) fn matches_and_is_valid(&self, certificate: &str, bundle: &str) -> bool {
        let valid = |pem: &str| {
            let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
            let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
            Some(certificate.validity().is_valid())
        };
        certificates(bundle).iter().any(|ca| self.has_subject_and_ca(certificate, ca))
            && valid(certificate) == Some(true)
    }

    fn has_subject_and_ca(&self, certificate: &str, ca: &str) -> bool {
        let (Ok((_, leaf)), Ok((_, ca))) = (
            x509_parser::pem::parse_x509_pem(certificate.as_bytes()),
            x509_parser::pem::parse_x509_pem(ca.as_bytes()),
        ) else {
            return false;
        };
        let (Ok(leaf), Ok(ca)) = (leaf.parse_x509(), ca.parse_x509()) else { return false };
        let subject = leaf.subject();
        let common: Vec<&str> = subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect();
        let organizations: Vec<&str> =
            subject.iter_organization().filter_map(|name| name.as_str().ok()).collect();
        common == [self.common_name.as_str()]
            && organizations == self.organizations
            && names(&leaf) == self.names
            && leaf.verify_signature(Some(ca.public_key())).is_ok()
    }
}

fn names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok()
            .map(|ip| ip.to_string()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

/// The time at which two thirds of a certificate's lifetime have passed: it should be renewed then.
fn due_of(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let from = u64::try_from(certificate.validity().not_before.timestamp()).ok()?;
    let to = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(from + to.saturating_sub(from) / 3 * 2))
}

/// The time at which the first certificate of a PEM text should be renewed; `None` if there is none.
pub(crate) fn due(pem: &str) -> Option<SystemTime> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    due_of(&certificate)
}

/// A PEM signing request for a key.
pub(crate) fn request(key: &KeyPair, wanted: &Leaf) -> Result<String, PkiError> {
    let make = || {
        let mut params = wanted.params()?;
        // The CertificateSigningRequest object lists the usages.
        params.key_usages.clear();
        params.extended_key_usages.clear();
        params.serialize_request(key)?.pem()
    };
    make().map_err(|source| PkiError::Create { what: "a certificate request", source })
}

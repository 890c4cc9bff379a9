//! What a route asks of the certificates of clients, and what its endpoints learn of them.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{HeaderMap, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use super::template::{Template, Values};
use crate::client_check::{CheckedClient, ClientCheck, ClientVerdict};

const CERTIFICATE: HeaderName = HeaderName::from_static("ssl-client-cert");
const VERDICT: HeaderName = HeaderName::from_static("ssl-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
const ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");
/// Characters of a line of PEM (RFC 7468, 3).
const PEM_LINE: usize = 64;

/// Which requests go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientDemand {
    /// Those of clients whose certificate verified.
    #[default]
    Verified,
    /// Also those of clients without one.
    VerifiedIfGiven,
    /// All. Endpoints decide.
    Nothing,
}

/// Requests of clients whose certificate was not verified by the check are those of clients without one.
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    pub check: Arc<ClientCheck>,
    pub demand: ClientDemand,
    /// What the subject of a certificate has to match, as in RFC 2253: `CN=client,O=Example`.
    pub subject: Option<Regex>,
    /// Where clients go that are refused for their certificate.
    pub error_page: Option<Template>,
    /// Endpoints get the certificate.
    pub passes: bool,
}

/// What endpoints learn of a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Introduction {
    certificate: Option<HeaderValue>,
    verdict: Option<HeaderValue>,
    subject: Option<HeaderValue>,
    issuer: Option<HeaderValue>,
}

/// An answer of the gateway's own.
type Answer = (StatusCode, HeaderMap);

impl ClientCertificates {
    /// What the endpoint learns, or the answer to a request that does not go on.
    pub(crate) fn admit(
        &self,
        client: Option<&CheckedClient>,
        values: &Values<'_>,
    ) -> Result<Introduction, Answer> {
        let client = client.filter(|client| client.check == self.check);
        let verdict = client.map_or(&ClientVerdict::Absent, |client| &client.verdict);
        let is_enough = match (self.demand, verdict) {
            (_, ClientVerdict::Verified) | (ClientDemand::Nothing, _) => true,
            (ClientDemand::VerifiedIfGiven, ClientVerdict::Absent) => true,
            (ClientDemand::Verified, _) | (ClientDemand::VerifiedIfGiven, ClientVerdict::Refused(_)) => false,
        };
        if !is_enough {
            return Err(self.refusal(values));
        }
        let leaf = client.and_then(|client| client.leaf.as_deref());
        let parsed = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok()).map(|(_, parsed)| parsed);
        let subject = parsed.as_ref().map(|parsed| distinguished_name(parsed.subject()));
        if let Some(wanted) = &self.subject
            && !wanted.is_match(subject.as_deref().unwrap_or_default())
        {
            return Err((StatusCode::FORBIDDEN, HeaderMap::new()));
        }
        let text = |text: &str| HeaderValue::from_str(text).ok();
        Ok(Introduction {
            certificate: leaf.filter(|_| self.passes).and_then(|leaf| text(&escaped_pem(leaf))),
            verdict: text(&match verdict {
                ClientVerdict::Verified => "SUCCESS".to_owned(),
                ClientVerdict::Absent => "NONE".to_owned(),
                ClientVerdict::Refused(why) => format!("FAILED:{why}"),
            }),
            subject: subject.as_deref().and_then(text),
            issuer: parsed.as_ref().and_then(|parsed| text(&distinguished_name(parsed.issuer()))),
        })
    }

    fn refusal(&self, values: &Values<'_>) -> Answer {
        let page = self.error_page.as_ref().and_then(|page| HeaderValue::from_str(&page.fill(values)).ok());
        match page {
            Some(page) => (StatusCode::FOUND, HeaderMap::from_iter([(LOCATION, page)])),
            None => (StatusCode::BAD_REQUEST, HeaderMap::new()),
        }
    }
}

impl Introduction {
    /// What the client itself says there is removed.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        let Introduction { certificate, verdict, subject, issuer } = self;
        for (name, value) in
            [(CERTIFICATE, certificate), (VERDICT, verdict), (SUBJECT, subject), (ISSUER, issuer)]
        {
            match value {
                Some(value) => drop(headers.insert(name, value.clone())),
                None => drop(headers.remove(name)),
            }
        }
    }
}

fn escaped_pem(der: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = &*encoded;
    while !rest.is_empty() {
        let (line, after) = rest.split_at(PEM_LINE.min(rest.len()));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    utf8_percent_encode(&pem, NON_ALPHANUMERIC).to_string()
}

/// As RFC 2253 has it: the most specific part comes first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|rdn| {
        let attributes = rdn.iter().map(|attribute| {
            let kind = oid2abbrev(attribute.attr_type(), oid_registry());
            let kind = kind.map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
            format!("{kind}={}", escaped(attribute.as_str().unwrap_or_default()))
        });
        attributes.collect::<Vec<_>>().join("+")
    });
    let mut parts: Vec<String> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut out = String::new();
    for (at, character) in value.chars().enumerate() {
        let is_edge = at == 0 && matches!(character, '#' | ' ');
        if is_edge || matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_name_begins_with_its_most_specific_part() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, "client");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
        assert_eq!(distinguished_name(parsed.subject()), "CN=client,O=Example\\, Inc.");
    }

    #[test]
    fn the_certificate_of_a_header_is_its_pem() {
        let escaped = escaped_pem(&[7; 60]);
        let pem = percent_encoding::percent_decode_str(&escaped).decode_utf8().unwrap();
        let lines: Vec<&str> = pem.lines().collect();
        assert_eq!(
            (lines[0], lines[3], lines.len()),
            ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", 4)
        );
        assert_eq!(BASE64_STANDARD.decode(lines[1..3].concat()).unwrap(), [7; 60]);
    }
}

//! A client certificate's subject: the common name is the user, organisations are the groups.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{AUTHENTICATED, CREDENTIAL, Identity};

/// The identity in a connection's certificate, whose chain TLS has verified. Read once; the accept loop adds it to requests.
#[derive(Clone, Debug)]
pub(crate) struct PeerCertificate {
    /// `None` if the subject names no user.
    identity: Option<Arc<Identity>>,
    /// Seconds since 1970.
    valid: std::ops::RangeInclusive<i64>,
}

impl PeerCertificate {
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> PeerCertificate {
        match X509Certificate::from_der(certificate) {
            Ok((_, parsed)) => {
                let validity = parsed.validity();
                let valid = validity.not_before.timestamp()..=validity.not_after.timestamp();
                PeerCertificate { identity: subject(&parsed, certificate).map(Arc::new), valid }
            }
            Err(_) => PeerCertificate { identity: None, valid: 0..=0 },
        }
    }

    /// Seconds since 1970.
    pub(crate) fn expiry(&self) -> i64 {
        *self.valid.end()
    }

    /// `None` once the certificate has expired: a connection may live longer than its certificate.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref().filter(|_| self.valid.contains(&Timestamp::now().as_second()))
    }
}

fn subject(certificate: &X509Certificate<'_>, der: &[u8]) -> Option<Identity> {
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if user.is_empty() {
        return None;
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    groups.push(AUTHENTICATED.to_owned());
    let hash: String = digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL.to_owned(), vec![format!("X509SHA256={hash}")])].into();
    Some(Identity { user, groups, extra, ..Identity::default() })
}

//! A client certificate's subject: the common name is the user, organisations are the groups.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, Identity};

/// The certificate that a connection was made with; TLS has verified its chain. Put into requests by the accept loop.
#[derive(Clone, Debug)]
pub(crate) struct PeerCertificate(pub(crate) CertificateDer<'static>);

/// `None` if the subject names no user.
pub(super) fn identity(certificate: &PeerCertificate) -> Option<Identity> {
    let (_, parsed) = X509Certificate::from_der(&certificate.0).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if user.is_empty() || !parsed.validity().is_valid() {
        return None;
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(Identity { user, groups, ..Identity::default() })
}

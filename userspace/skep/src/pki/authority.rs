//! A certificate authority: issues the server's own certificates and signs the requests of nodes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use skep_control::{SignError, SignRequest, Signer};
use x509_parser::pem::parse_x509_pem;

use super::error::PkiError;
use super::files::{certificates, read, to_hex, write_private};
use super::leaf::{CertifiedPem, Leaf};

/// Validity of a CA's certificate.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from this long ago, because the clocks of nodes may be behind.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A CA: the certificates that are trusted, and the key of the first of them.
pub(crate) struct Authority {
    /// The certificate that signs.
    pem: String,
    /// All trusted certificates; the one that signs is the first.
    bundle: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `STEM.crt` and `STEM.key`, or creates a CA of this name if neither exists.
    pub(super) fn open(folder: &Path, stem: &str, name: &str) -> Result<Authority, PkiError> {
        let (certificate, key) = (&folder.join(format!("{stem}.crt")), &folder.join(format!("{stem}.key")));
        let (bundle, key_pem) = match (read(certificate)?, read(key)?) {
            (Some(pem), Some(key)) => (pem, key),
            (None, found) => {
                let created = create(name, found.as_deref(), key)?;
                write_private(key, created.key.as_bytes())?;
                write_private(certificate, created.certificate.as_bytes())?;
                (created.certificate, created.key)
            }
            (Some(_), None) => {
                let reason = "its certificate exists, but the key is missing".to_owned();
                return Err(PkiError::Invalid { path: key.to_owned(), reason });
            }
        };
        let invalid = |path: &Path, reason: &dyn std::fmt::Display| PkiError::Invalid {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let key_pair = KeyPair::from_pem(&key_pem).map_err(|e| invalid(key, &e))?;
        let issuer = Issuer::from_ca_cert_pem(&bundle, key_pair).map_err(|e| invalid(certificate, &e))?;
        let next = read(&folder.join(format!("{stem}-next.crt")))?;
        let bundle: String = certificates(&bundle).into_iter().chain(next).collect();
        let pem = certificates(&bundle).into_iter().next();
        let pem = pem.ok_or_else(|| invalid(certificate, &"it has no certificate"))?;
        Ok(Authority { pem, bundle, issuer })
    }

    /// The certificate that signs.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// All certificates to trust, as PEM; the one that signs is the first.
    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Issues a certificate with a new key.
    pub(super) fn issue(&self, wanted: &Leaf) -> Result<CertifiedPem, PkiError> {
        let issue = || {
            let key = KeyPair::generate()?;
            let mut params = wanted.params()?;
            set_validity(&mut params, wanted.lifetime);
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok(CertifiedPem { certificate: certificate.pem(), key: key.serialize_pem() })
        };
        issue().map_err(|source| PkiError::Create { what: "a certificate", source })
    }
}

/// SHA-256 of the subject public key info, in the form of kubeadm's `--discovery-token-ca-cert-hash`; `None` if the text
/// is no PEM certificate.
pub(crate) fn ca_hash(pem: &str) -> Option<String> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    hash_of_der(&pem.contents)
}

/// Like [`ca_hash`], for a certificate in DER.
pub(crate) fn hash_of_der(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let hash = digest(&SHA256, certificate.public_key().raw);
    Some(format!("sha256:{}", to_hex(hash.as_ref())))
}

/// A new self-signed CA.
pub(super) fn create_pem(name: &str) -> Result<CertifiedPem, PkiError> {
    create(name, None, Path::new(""))
}

/// Creates a self-signed CA. Uses an existing key: an interrupted start may have written only the key.
fn create(name: &str, found: Option<&str>, path: &Path) -> Result<CertifiedPem, PkiError> {
    let key = match found {
        Some(pem) => KeyPair::from_pem(pem)
            .map_err(|error| PkiError::Invalid { path: path.to_owned(), reason: error.to_string() })?,
        None => {
            KeyPair::generate().map_err(|source| PkiError::Create { what: "the key of the CA", source })?
        }
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, CA_LIFETIME);
    let certificate =
        params.self_signed(&key).map_err(|source| PkiError::Create { what: "the CA", source })?;
    Ok(CertifiedPem { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Sets the validity, the serial number and the authority key identifier.
fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - MAX_CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
    let mut serial = [0; 16];
    // Without random numbers rcgen derives the serial number from the key.
    params.serial_number = aws_lc_rs::rand::fill(&mut serial).is_ok().then(|| {
        // A serial number is positive.
        serial[0] &= 0x7f;
        SerialNumber::from_slice(&serial)
    });
    params.use_authority_key_identifier_extension = true;
}

impl Signer for Authority {
    fn sign(&self, request: &SignRequest) -> Result<String, SignError> {
        let failed = |error: &dyn std::fmt::Display| SignError(error.to_string());
        let mut csr = CertificateSigningRequestParams::from_pem(&request.csr_pem).map_err(|e| failed(&e))?;
        let params = &mut csr.params;
        set_validity(params, request.lifetime);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        for usage in &request.usages {
            match usage.as_str() {
                "digital signature" => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
                "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                "client auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
                "server auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
                other => return Err(failed(&format!("usage {other:?} is not supported"))),
            }
        }
        Ok(csr.signed_by(&self.issuer).map_err(|e| failed(&e))?.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::super::leaf::CLIENT;
    use super::super::{Pki, request};
    use super::*;

    #[test]
    fn a_signed_request_has_the_requested_subject_usage_and_lifetime() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let wanted = Leaf::new("system:node:n1", &["system:nodes"]);
        let csr_pem = request(&KeyPair::generate().unwrap(), &wanted).unwrap();
        let usages = ["digital signature", "client auth"].map(str::to_owned).to_vec();
        let lifetime = Duration::from_secs(3600);
        let request = SignRequest { csr_pem, signer_name: String::new(), usages, lifetime };
        let signed = pki.authority().sign(&request).unwrap();
        assert!(wanted.matches(&signed, pki.authority().pem()));
        let (_, pem) = parse_x509_pem(signed.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let life =
            certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert_eq!(life, 3600 + 300);
        assert_eq!(wanted.purpose, CLIENT);
    }

    #[test]
    fn an_unsupported_usage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let csr_pem = request(&KeyPair::generate().unwrap(), &Leaf::new("x", &[])).unwrap();
        let usages = vec!["cert sign".to_owned()];
        let request = SignRequest { csr_pem, signer_name: String::new(), usages, lifetime: MAX_CLOCK_SKEW };
        assert!(pki.authority().sign(&request).is_err());
    }

    #[test]
    fn the_hash_covers_the_public_key() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let key = std::fs::read_to_string(folder.path().join("ca.key")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let expected = format!("sha256:{}", to_hex(digest(&SHA256, &spki).as_ref()));
        assert_eq!(ca_hash(pki.authority().pem()), Some(expected));
    }
}

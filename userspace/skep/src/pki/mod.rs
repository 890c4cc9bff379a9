//! The server's keys and certificates in one folder: created at the first start, renewed when they are due.
//!
//! The cluster's CA certifies the API server, its client for kubelets, administrators and, by signing requests, nodes. The
//! front-proxy CA certifies only the client that forwards a user's identity to aggregated API servers.

mod authority;
mod error;
mod files;
mod leaf;
mod sealing;

use std::path::{Path, PathBuf};

pub(crate) use authority::{Authority, ca_hash, hash_of_der};
pub(crate) use error::PkiError;
pub(crate) use files::write_private;
pub(crate) use leaf::{CLIENT, CertifiedPem, Leaf, SERVER, due, request};

use rcgen::KeyPair;

/// The opened folder.
pub(crate) struct Pki {
    folder: PathBuf,
    authority: Authority,
}

impl Pki {
    /// Opens the folder and creates what is missing. Only the owner can read the files.
    pub(crate) fn open(folder: &Path) -> Result<Pki, PkiError> {
        files::create_folder(folder)?;
        let authority = Authority::open("skep-ca", &folder.join("ca.crt"), &folder.join("ca.key"))?;
        Ok(Pki { folder: folder.to_owned(), authority })
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The certificate `name` and its key. Creates a new pair if the one on disk has another subject or other names, or if
    /// two thirds of its lifetime have passed.
    pub(crate) fn leaf(&self, name: &str, wanted: &Leaf) -> Result<CertifiedPem, PkiError> {
        self.leaf_of(&self.authority, name, wanted)
    }

    /// The client certificate for aggregated API servers, and the PEM of its CA.
    pub(crate) fn front_proxy(&self, wanted: &Leaf) -> Result<(CertifiedPem, String), PkiError> {
        let file = |name: &str| self.folder.join(name);
        let ca =
            Authority::open("skep-front-proxy-ca", &file("front-proxy-ca.crt"), &file("front-proxy-ca.key"))?;
        Ok((self.leaf_of(&ca, "front-proxy-client", wanted)?, ca.pem().to_owned()))
    }

    fn leaf_of(&self, authority: &Authority, name: &str, wanted: &Leaf) -> Result<CertifiedPem, PkiError> {
        let (certificate, key) = self.leaf_files(name);
        if let (Some(found), Some(key)) = (files::read(&certificate)?, files::read(&key)?)
            && wanted.matches(&found, authority.pem())
        {
            return Ok(CertifiedPem { certificate: found, key });
        }
        let issued = authority.issue(wanted)?;
        // The key first: a certificate on disk means that the pair is complete.
        let _ = std::fs::remove_file(&certificate);
        write_private(&key, issued.key.as_bytes())?;
        write_private(&certificate, issued.certificate.as_bytes())?;
        Ok(issued)
    }

    /// The files of a certificate and its key.
    pub(crate) fn leaf_files(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key")))
    }

    /// PEM of the private key that signs service-account tokens.
    pub(crate) fn service_account_key(&self) -> Result<String, PkiError> {
        let path = self.folder.join("service-account.key");
        if let Some(found) = files::read(&path)? {
            return Ok(found);
        }
        let key = KeyPair::generate()
            .map_err(|source| PkiError::Create { what: "the service-account key", source })?
            .serialize_pem();
        write_private(&path, key.as_bytes())?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn serving(names: &[&str]) -> Leaf {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Leaf { purpose: SERVER, ..Leaf::new("kube-apiserver", &[]) }.with_names(names)
    }

    #[test]
    fn a_second_start_reads_the_same_keys() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::open(folder.path()).unwrap();
        let leaf = first.leaf("server", &serving(&["localhost", "10.0.0.1"])).unwrap();
        let second = Pki::open(folder.path()).unwrap();
        assert_eq!(second.authority().pem(), first.authority().pem());
        assert_eq!(second.leaf("server", &serving(&["localhost", "10.0.0.1"])).unwrap(), leaf);
        assert_eq!(second.service_account_key().unwrap(), first.service_account_key().unwrap());
    }

    #[test]
    fn a_certificate_with_other_names_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let leaf = pki.leaf("server", &serving(&["localhost"])).unwrap();
        let other = pki.leaf("server", &serving(&["localhost", "10.0.0.1"])).unwrap();
        assert_ne!(leaf.certificate, other.certificate);
    }

    #[test]
    fn a_certificate_of_another_ca_is_replaced() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let leaf = Pki::open(a.path()).unwrap().leaf("server", &serving(&["localhost"])).unwrap();
        let pki = Pki::open(b.path()).unwrap();
        std::fs::write(b.path().join("server.crt"), &leaf.certificate).unwrap();
        std::fs::write(b.path().join("server.key"), &leaf.key).unwrap();
        assert_ne!(pki.leaf("server", &serving(&["localhost"])).unwrap(), leaf);
    }

    #[test]
    fn only_the_owner_can_read_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(&folder.path().join("pki")).unwrap();
        pki.leaf("server", &serving(&["localhost"])).unwrap();
        pki.service_account_key().unwrap();
        let folder = folder.path().join("pki");
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        for file in std::fs::read_dir(folder).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_ca_is_an_error_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        drop(Pki::open(folder.path()).unwrap());
        std::fs::write(folder.path().join("ca.key"), "nonsense").unwrap();
        assert!(matches!(Pki::open(folder.path()), Err(PkiError::Invalid { .. })));
        assert_eq!(std::fs::read_to_string(folder.path().join("ca.key")).unwrap(), "nonsense");
    }
}

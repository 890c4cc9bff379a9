//! The server's keys and certificates, in one folder: made at first start, renewed when they grow old.
//!
//! One CA certifies everything: the API server, its client to the nodes, administrators and, by requests, nodes. Another,
//! for nothing else, certifies that it is the API server who speaks for a user to other API servers.

mod authority;
mod files;
mod leaf;
mod sealing;

use std::path::{Path, PathBuf};

pub(crate) use authority::{Authority, ca_hash, hash_of_der};
pub(crate) use files::write_private;
pub(crate) use leaf::{CLIENT, CertifiedPem, Leaf, SERVER, due, request};

use rcgen::KeyPair;
use skep_store::sealed::BadKeyring;

/// Why keys or certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("{operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is not what it should be: {reason}; restore it from a copy, or remove it to have a new one made"
    )]
    Bad { path: PathBuf, reason: String },
    #[error("{path}: {source}; restore it from a copy")]
    Keyring { path: PathBuf, source: BadKeyring },
    #[error("make {what}: {source}")]
    Make { what: &'static str, source: rcgen::Error },
}

/// The folder, opened.
pub(crate) struct Pki {
    folder: PathBuf,
    authority: Authority,
}

impl Pki {
    /// Opens the folder; what is missing is made. Files are readable by their owner only.
    pub(crate) fn open(folder: &Path) -> Result<Pki, PkiError> {
        files::make_folder(folder)?;
        let authority = Authority::open("skep-ca", &folder.join("ca.crt"), &folder.join("ca.key"))?;
        Ok(Pki { folder: folder.to_owned(), authority })
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The certificate `name` and its key: the one on disk, or a new one if that is of another subject, of other names,
    /// or has passed two thirds of its life.
    pub(crate) fn leaf(&self, name: &str, wanted: &Leaf) -> Result<CertifiedPem, PkiError> {
        self.leaf_of(&self.authority, name, wanted)
    }

    /// By what other API servers know this one, and the CA that certifies it.
    pub(crate) fn front_proxy(&self, wanted: &Leaf) -> Result<(CertifiedPem, String), PkiError> {
        let file = |name: &str| self.folder.join(name);
        let ca =
            Authority::open("skep-front-proxy-ca", &file("front-proxy-ca.crt"), &file("front-proxy-ca.key"))?;
        Ok((self.leaf_of(&ca, "front-proxy-client", wanted)?, ca.pem().to_owned()))
    }

    fn leaf_of(&self, authority: &Authority, name: &str, wanted: &Leaf) -> Result<CertifiedPem, PkiError> {
        let (certificate, key) = self.leaf_files(name);
        if let (Some(found), Some(key)) = (files::read(&certificate)?, files::read(&key)?)
            && wanted.is_met_by(&found, authority.pem())
        {
            return Ok(CertifiedPem { certificate: found, key });
        }
        let made = authority.issue(wanted)?;
        // The key first: a certificate without its key would be taken for the whole.
        let _ = std::fs::remove_file(&certificate);
        write_private(&key, made.key.as_bytes())?;
        write_private(&certificate, made.certificate.as_bytes())?;
        Ok(made)
    }

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
            .map_err(|source| PkiError::Make { what: "the service-account key", source })?
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
    fn a_second_start_finds_the_same_keys() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::open(folder.path()).unwrap();
        let leaf = first.leaf("server", &serving(&["localhost", "10.0.0.1"])).unwrap();
        let second = Pki::open(folder.path()).unwrap();
        assert_eq!(second.authority().pem(), first.authority().pem());
        assert_eq!(second.leaf("server", &serving(&["localhost", "10.0.0.1"])).unwrap(), leaf);
        assert_eq!(second.service_account_key().unwrap(), first.service_account_key().unwrap());
    }

    #[test]
    fn other_names_make_another_certificate() {
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
    fn nobody_else_can_read_the_folder() {
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
    fn a_damaged_ca_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        drop(Pki::open(folder.path()).unwrap());
        std::fs::write(folder.path().join("ca.key"), "nonsense").unwrap();
        assert!(matches!(Pki::open(folder.path()), Err(PkiError::Bad { .. })));
        assert_eq!(std::fs::read_to_string(folder.path().join("ca.key")).unwrap(), "nonsense");
    }
}

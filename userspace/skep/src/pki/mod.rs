//! The server's keys and certificates in one folder: created at the first start, renewed when they are due.
//!
//! Each CA has one purpose, so that no certificate is accepted where it was not meant to be:
//!
//! | CA | certifies | trusted by |
//! |---|---|---|
//! | `ca` | the API server, administrators, nodes as clients | clients of the API server, and the API server for its clients |
//! | `kubelet-serving-ca` | the kubelet API of nodes | the API server, for kubelets |
//! | `kubelet-client-ca` | the API server as a client of kubelets | nodes |
//! | `front-proxy-ca` | the client that forwards a user's identity | aggregated API servers |

mod authority;
mod error;
mod files;
mod leaf;
mod rotation;
mod sealing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) use authority::{Authority, ca_hash, hash_of_der};
pub(crate) use error::PkiError;
pub(crate) use files::{certificates, to_hex, write_private};
pub(crate) use leaf::{CertifiedPem, Leaf, SERVER, due, request};
pub(crate) use rotation::Stage;

use jiff::Timestamp;
use rcgen::KeyPair;

/// The opened folder.
pub(crate) struct Pki {
    folder: PathBuf,
    authority: Authority,
    kubelet_serving: Authority,
    kubelet_client: Authority,
    front_proxy: Authority,
}

impl Pki {
    /// Opens the folder and creates what is missing. Only the owner can read the files.
    pub(crate) fn open(folder: &Path) -> Result<Pki, PkiError> {
        files::create_folder(folder)?;
        let open = |stem, name| Authority::open(folder, stem, name);
        Ok(Pki {
            folder: folder.to_owned(),
            authority: open("ca", "skep-ca")?,
            kubelet_serving: open("kubelet-serving-ca", "skep-kubelet-serving-ca")?,
            kubelet_client: open("kubelet-client-ca", "skep-kubelet-client-ca")?,
            front_proxy: open("front-proxy-ca", "skep-front-proxy-ca")?,
        })
    }

    /// The CA of the API server and its clients.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The CA of the kubelet API of nodes.
    pub(crate) fn kubelet_serving(&self) -> &Authority {
        &self.kubelet_serving
    }

    /// The CA of this server as a client of kubelets.
    pub(crate) fn kubelet_client(&self) -> &Authority {
        &self.kubelet_client
    }

    /// The CA of this server as a front proxy.
    pub(crate) fn front_proxy(&self) -> &Authority {
        &self.front_proxy
    }

    /// The certificate `name` of that CA, and its key. Creates a new pair if the one on disk has another subject, other names
    /// or another CA, or if two thirds of its lifetime have passed.
    pub(crate) fn leaf(
        &self,
        authority: &Authority,
        name: &str,
        wanted: &Leaf,
    ) -> Result<CertifiedPem, PkiError> {
        let (certificate, key) = self.leaf_files(name);
        if let (Some(found), Some(key)) = (files::read(&certificate)?, files::read(&key)?)
            && wanted.matches(&found, authority.pem())
        {
            return Ok(CertifiedPem { certificate: found, key });
        }
        let issued = authority.issue(wanted)?;
        tracing::info!(certificate = name, subject = wanted.common_name, "certificate issued");
        // The key first: a certificate on disk means that the pair is complete.
        let _ = std::fs::remove_file(&certificate);
        write_private(&key, issued.key.as_bytes())?;
        write_private(&certificate, issued.certificate.as_bytes())?;
        Ok(issued)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The names of the CAs, as their files have them, and the CAs.
    pub(crate) fn authorities(&self) -> [(&'static str, &Authority); 4] {
        [
            ("ca", &self.authority),
            ("kubelet-serving-ca", &self.kubelet_serving),
            ("kubelet-client-ca", &self.kubelet_client),
            ("front-proxy-ca", &self.front_proxy),
        ]
    }

    /// The files that all servers of a cluster have in common.
    pub(crate) fn shared_files(&self) -> Vec<String> {
        let cas = self
            .authorities()
            .into_iter()
            .flat_map(|(name, _)| [format!("{name}.crt"), format!("{name}.key")]);
        cas.chain(["service-account.key".to_owned(), "secrets.keys".to_owned()]).collect()
    }

    /// Hashes of the public keys that this server trusts, by the name of the key.
    pub(crate) fn fingerprints(&self) -> Result<BTreeMap<String, BTreeSet<String>>, PkiError> {
        let of_ca = |(name, ca): (&str, &Authority)| {
            let all = certificates(ca.bundle());
            (name.to_owned(), all.iter().filter_map(|pem| ca_hash(pem)).collect())
        };
        let mut all: BTreeMap<_, _> = self.authorities().into_iter().map(of_ca).collect();
        let tokens = self.token_keys()?.public;
        all.insert(TOKEN_KEY.to_owned(), tokens.iter().map(|pem| fingerprint(pem)).collect());
        Ok(all)
    }

    /// Since when joins of nodes are recorded: the time of the first start of a version that does.
    pub(crate) fn recorded_since(&self) -> Result<Timestamp, PkiError> {
        let path = self.folder.join("joins-recorded-since");
        if let Some(text) = files::read(&path)? {
            let invalid = |error: jiff::Error| PkiError::Invalid { path, reason: error.to_string() };
            return text.trim().parse().map_err(invalid);
        }
        let now = Timestamp::now();
        write_private(&path, format!("{now}\n").as_bytes())?;
        Ok(now)
    }

    /// The files of a certificate and its key.
    pub(crate) fn leaf_files(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key")))
    }

    /// The keys of service-account tokens: the one that signs, and those whose tokens are valid.
    pub(crate) fn token_keys(&self) -> Result<TokenKeyPems, PkiError> {
        let path = self.folder.join(format!("{TOKEN_KEY}.key"));
        let private = match files::read(&path)? {
            Some(found) => found,
            None => {
                let key = KeyPair::generate()
                    .map_err(|source| PkiError::Create { what: "the service-account key", source })?
                    .serialize_pem();
                write_private(&path, key.as_bytes())?;
                key
            }
        };
        let public = public_key(&path, &private)?;
        let public = std::iter::once(public).chain(self.other_token_keys()?).collect();
        Ok(TokenKeyPems { private, public })
    }
}

/// The stem of the token key's files.
const TOKEN_KEY: &str = "service-account";

/// PEM of the keys of service-account tokens.
pub(crate) struct TokenKeyPems {
    pub(crate) private: String,
    /// That of `private` is the first.
    pub(crate) public: Vec<String>,
}

fn public_key(path: &Path, private: &str) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(private)
        .map_err(|error| PkiError::Invalid { path: path.to_owned(), reason: error.to_string() })?;
    Ok(key.public_key_pem())
}

fn fingerprint(public_key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public_key.trim().as_bytes());
    format!("sha256:{}", to_hex(digest.as_ref()))
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
        let leaf = first.leaf(first.authority(), "server", &serving(&["localhost", "10.0.0.1"])).unwrap();
        let second = Pki::open(folder.path()).unwrap();
        assert_eq!(second.authority().pem(), first.authority().pem());
        assert_eq!(
            second.leaf(second.authority(), "server", &serving(&["localhost", "10.0.0.1"])).unwrap(),
            leaf
        );
        assert_eq!(second.token_keys().unwrap().private, first.token_keys().unwrap().private);
    }

    #[test]
    fn a_certificate_with_other_names_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let leaf = pki.leaf(pki.authority(), "server", &serving(&["localhost"])).unwrap();
        let other = pki.leaf(pki.authority(), "server", &serving(&["localhost", "10.0.0.1"])).unwrap();
        assert_ne!(leaf.certificate, other.certificate);
    }

    #[test]
    fn a_certificate_of_another_ca_is_replaced() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let other = Pki::open(a.path()).unwrap();
        let leaf = other.leaf(other.authority(), "server", &serving(&["localhost"])).unwrap();
        let pki = Pki::open(b.path()).unwrap();
        std::fs::write(b.path().join("server.crt"), &leaf.certificate).unwrap();
        std::fs::write(b.path().join("server.key"), &leaf.key).unwrap();
        assert_ne!(pki.leaf(pki.authority(), "server", &serving(&["localhost"])).unwrap(), leaf);
    }

    /// Which CA of the folder signed a certificate.
    fn issuers(pki: &Pki, certificate: &str) -> Vec<&'static str> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        let all = [
            ("ca", pki.authority()),
            ("kubelet-serving-ca", pki.kubelet_serving()),
            ("kubelet-client-ca", pki.kubelet_client()),
            ("front-proxy-ca", pki.front_proxy()),
        ];
        let signed = |ca: &Authority| {
            let (_, pem) = x509_parser::pem::parse_x509_pem(ca.bundle().as_bytes()).unwrap();
            leaf.verify_signature(Some(pem.parse_x509().unwrap().public_key())).is_ok()
        };
        all.into_iter().filter(|(_, ca)| signed(ca)).map(|(name, _)| name).collect()
    }

    #[test]
    fn a_certificate_for_kubelets_is_of_no_use_towards_the_api_server() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let wanted = Leaf { purpose: SERVER, ..Leaf::new("system:node:n1", &["system:nodes"]) };
        let wanted = wanted.with_names(vec!["kubernetes.default.svc".to_owned()]);
        let serving = skep_control::SignRequest {
            csr_pem: request(&KeyPair::generate().unwrap(), &wanted).unwrap(),
            signer_name: "kubernetes.io/kubelet-serving".to_owned(),
            usages: vec!["server auth".to_owned()],
            lifetime: std::time::Duration::from_secs(60),
        };
        let serving = skep_control::Signer::sign(pki.kubelet_serving(), &serving).unwrap();
        assert_eq!(issuers(&pki, &serving), ["kubelet-serving-ca"]);
        let client = Leaf::new("kube-apiserver-kubelet-client", &[]);
        let client = pki.leaf(pki.kubelet_client(), "kubelet-client", &client).unwrap();
        assert_eq!(issuers(&pki, &client.certificate), ["kubelet-client-ca"]);
    }

    #[test]
    fn only_the_owner_can_read_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(&folder.path().join("pki")).unwrap();
        pki.leaf(pki.authority(), "server", &serving(&["localhost"])).unwrap();
        pki.token_keys().unwrap();
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

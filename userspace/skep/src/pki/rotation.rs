//! The rotation of CAs and of the token key, in stages: the new one is trusted beside the old, then it signs, then the old is
//! dropped. Nothing that the old one signed fails meanwhile. Running servers follow the files.

use std::fs;
use std::path::PathBuf;

use rcgen::KeyPair;

use super::authority::create_pem;
use super::error::PkiError;
use super::files::certificates;
use super::files::{read, write_private};
use super::{Pki, TOKEN_KEY, public_key};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Stage {
    /// Create new keys, and trust them beside the old ones
    Trust,
    /// Sign with the new keys; what the old ones signed stays valid, and certificates are renewed
    Sign,
    /// Trust only the new keys
    Drop,
}

impl Pki {
    /// Brings the CA or token key of that name to the stage.
    pub(crate) fn rotate(&self, name: &str, stage: Stage) -> Result<(), PkiError> {
        match (name == TOKEN_KEY, stage) {
            (false, Stage::Trust) => self.trust_ca(name),
            (false, Stage::Sign) => self.sign_with_ca(name),
            (false, Stage::Drop) => self.drop_ca(name),
            (true, Stage::Trust) => self.trust_token_key(),
            (true, Stage::Sign) => self.sign_with_token_key(),
            (true, Stage::Drop) => self.drop_token_key(),
        }
    }

    /// The CAs and keys that can be rotated.
    pub(crate) fn rotatable(&self) -> Vec<&'static str> {
        self.authorities().into_iter().map(|(name, _)| name).chain([TOKEN_KEY]).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn refuse(&self, name: &str, reason: &str) -> PkiError {
        PkiError::Stage { name: name.to_owned(), reason: reason.to_owned() }
    }

    fn trust_ca(&self, name: &str) -> Result<(), PkiError> {
        let bundle = read(&self.file(&format!("{name}.crt")))?.unwrap_or_default();
        let next = self.file(&format!("{name}-next.crt"));
        if next.exists() || certificates(&bundle).len() != 1 {
            return Err(self.refuse(name, "the last rotation has not ended: go on with `sign` or `drop`"));
        }
        let created = create_pem(&format!("skep-{name}"))?;
        write_private(&self.file(&format!("{name}-next.key")), created.key.as_bytes())?;
        write_private(&next, created.certificate.as_bytes())
    }

    /// The files are replaced one by one. With the new key beside the old certificate no server starts; the certificate is
    /// written at once, and a rotation that was interrupted is finished by repeating it.
    fn sign_with_ca(&self, name: &str) -> Result<(), PkiError> {
        let (next, next_key) =
            (self.file(&format!("{name}-next.crt")), self.file(&format!("{name}-next.key")));
        let (Some(new), Some(key)) = (read(&next)?, read(&next_key)?) else {
            return Err(self.refuse(name, "there is no new key: begin with `trust`"));
        };
        let certificate = self.file(&format!("{name}.crt"));
        let old = read(&certificate)?.unwrap_or_default();
        let others = certificates(&old).into_iter().filter(|pem| pem.trim() != new.trim());
        let bundle: String = std::iter::once(format!("{}\n", new.trim())).chain(others).collect();
        write_private(&self.file(&format!("{name}.key")), key.as_bytes())?;
        write_private(&certificate, bundle.as_bytes())?;
        self.remove(&[next, next_key])
    }

    fn drop_ca(&self, name: &str) -> Result<(), PkiError> {
        if self.file(&format!("{name}-next.crt")).exists() {
            return Err(self.refuse(name, "the new key does not sign yet: go on with `sign`"));
        }
        let certificate = self.file(&format!("{name}.crt"));
        let bundle = read(&certificate)?.unwrap_or_default();
        match certificates(&bundle).first() {
            Some(first) => write_private(&certificate, first.as_bytes()),
            None => Ok(()),
        }
    }

    fn trust_token_key(&self) -> Result<(), PkiError> {
        let next = self.file(&format!("{TOKEN_KEY}-next.key"));
        if next.exists() || self.file(&format!("{TOKEN_KEY}-old.pub")).exists() {
            return Err(
                self.refuse(TOKEN_KEY, "the last rotation has not ended: go on with `sign` or `drop`")
            );
        }
        let key = KeyPair::generate().map_err(|source| PkiError::Create { what: "a token key", source })?;
        write_private(&next, key.serialize_pem().as_bytes())
    }

    fn sign_with_token_key(&self) -> Result<(), PkiError> {
        let (current, next) =
            (self.file(&format!("{TOKEN_KEY}.key")), self.file(&format!("{TOKEN_KEY}-next.key")));
        let Some(new) = read(&next)? else {
            return Err(self.refuse(TOKEN_KEY, "there is no new key: begin with `trust`"));
        };
        let old = read(&current)?.unwrap_or_default();
        if old != new {
            let old = public_key(&current, &old)?;
            write_private(&self.file(&format!("{TOKEN_KEY}-old.pub")), old.as_bytes())?;
            write_private(&current, new.as_bytes())?;
        }
        self.remove(&[next])
    }

    fn drop_token_key(&self) -> Result<(), PkiError> {
        if self.file(&format!("{TOKEN_KEY}-next.key")).exists() {
            return Err(self.refuse(TOKEN_KEY, "the new key does not sign yet: go on with `sign`"));
        }
        let old = self.file(&format!("{TOKEN_KEY}-old.pub"));
        if old.exists() { self.remove(&[old]) } else { Ok(()) }
    }

    /// The public keys besides the one that signs: of the next and of the last token key.
    pub(super) fn other_token_keys(&self) -> Result<Vec<String>, PkiError> {
        let next = self.file(&format!("{TOKEN_KEY}-next.key"));
        let next_key = read(&next)?.map(|pem| public_key(&next, &pem)).transpose()?;
        Ok(next_key.into_iter().chain(read(&self.file(&format!("{TOKEN_KEY}-old.pub")))?).collect())
    }

    fn remove(&self, files: &[PathBuf]) -> Result<(), PkiError> {
        files.iter().try_for_each(|file| {
            fs::remove_file(file).map_err(|source| PkiError::File {
                operation: "remove",
                path: file.clone(),
                source,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Leaf;

    #[test]
    fn each_stage_of_a_ca_keeps_what_was_signed_before_valid() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Pki::open(folder.path()).unwrap();
        let wanted = Leaf::new("system:node:n1", &["system:nodes"]);
        let old = open().authority().pem().to_owned();
        let before = open().leaf(open().authority(), "x", &wanted).unwrap();
        open().rotate("ca", Stage::Trust).unwrap();
        assert_eq!(open().authority().pem(), old, "the old one signs");
        assert_eq!(certificates(open().authority().bundle()).len(), 2);
        assert!(wanted.matches(&before.certificate, open().authority().bundle()));
        open().rotate("ca", Stage::Sign).unwrap();
        let pki = open();
        assert_ne!(pki.authority().pem(), old);
        assert!(!wanted.matches(&before.certificate, pki.authority().bundle()), "it is renewed");
        assert!(wanted.matches_and_is_valid(&before.certificate, pki.authority().bundle()), "it is valid");
        let after = pki.leaf(pki.authority(), "x", &wanted).unwrap();
        pki.rotate("ca", Stage::Drop).unwrap();
        let bundle = open().authority().bundle().to_owned();
        assert!(wanted.matches(&after.certificate, &bundle));
        assert!(!wanted.matches_and_is_valid(&before.certificate, &bundle));
    }

    #[test]
    fn token_keys_overlap_and_stages_cannot_be_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        let public = || pki.token_keys().unwrap().public;
        let first = public();
        assert!(pki.rotate(TOKEN_KEY, Stage::Sign).is_err() && pki.rotate("ca", Stage::Sign).is_err());
        pki.rotate(TOKEN_KEY, Stage::Trust).unwrap();
        let both = public();
        assert!(both.len() == 2 && both[0] == first[0]);
        assert!(pki.rotate(TOKEN_KEY, Stage::Trust).is_err() && pki.rotate(TOKEN_KEY, Stage::Drop).is_err());
        pki.rotate(TOKEN_KEY, Stage::Sign).unwrap();
        assert_eq!(public(), [both[1].clone(), both[0].clone()]);
        pki.rotate(TOKEN_KEY, Stage::Drop).unwrap();
        assert_eq!(public(), [both[1].clone()]);
    }
}

//! The keys that encrypt Secrets at rest: one a line, the first one encrypts.

use std::path::PathBuf;

use skep_store::sealed::Keyring;

use super::Pki;
use super::error::PkiError;
use super::files::{self, write_private};

impl Pki {
    /// The file of the keys.
    pub(crate) fn sealing_file(&self) -> PathBuf {
        self.folder.join("secrets.keys")
    }

    /// The keys; `None` if the file does not exist.
    pub(crate) fn sealing_keys(&self) -> Result<Option<Keyring>, PkiError> {
        let text = files::read(&self.sealing_file())?;
        text.map(|text| Keyring::parse(&text)).transpose().map_err(|source| self.bad_keyring(source))
    }

    /// Adds a new key before the existing ones.
    pub(crate) fn create_sealing_key(&self) -> Result<Keyring, PkiError> {
        let file = self.sealing_file();
        let others = files::read(&file)?.unwrap_or_default();
        let line = Keyring::new_line().map_err(|source| self.bad_keyring(source))?;
        let text = format!("{line}{others}");
        let keyring = Keyring::parse(&text).map_err(|source| self.bad_keyring(source))?;
        write_private(&file, text.as_bytes())?;
        Ok(keyring)
    }

    fn bad_keyring(&self, source: skep_store::sealed::BadKeyring) -> PkiError {
        PkiError::Keyring { path: self.sealing_file(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_is_the_first_and_the_others_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        assert!(pki.sealing_keys().unwrap().is_none());
        let first = pki.create_sealing_key().unwrap().id().to_owned();
        let second = pki.create_sealing_key().unwrap().id().to_owned();
        assert_eq!(pki.sealing_keys().unwrap().unwrap().id(), second);
        let text = std::fs::read_to_string(pki.sealing_file()).unwrap();
        assert!(text.lines().count() == 2 && text.lines().nth(1).unwrap().starts_with(&first));
        assert_eq!(std::fs::metadata(pki.sealing_file()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path()).unwrap();
        std::fs::write(pki.sealing_file(), "nonsense").unwrap();
        let error = pki.sealing_keys().unwrap_err().to_string();
        assert!(error.contains("secrets.keys: line 1") && error.contains("restore it"), "{error}");
        assert!(pki.create_sealing_key().is_err());
        assert_eq!(std::fs::read_to_string(pki.sealing_file()).unwrap(), "nonsense");
    }
}

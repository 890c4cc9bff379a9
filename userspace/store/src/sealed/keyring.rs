//! The keys, and the form of a sealed value.
//!
//! In: plain values; a text of keys. Out: sealed values. A sealed value names its key: `skep:sealed:v2:aesgcm:ID:`, then
//! salt, nonce, ciphertext and tag. The store key is authenticated with it, so that a value copied to another store key does
//! not open. As in Kubernetes' EncryptionConfiguration, the first key seals and all keys open.
//!
//! AES-GCM with random nonces is safe for 2^32 values of one key (NIST SP 800-38D, 8.3). So each value has a key of its own,
//! derived from the ring's key and a random salt (HKDF, RFC 5869): the number of writes needs no bound, and no count of them
//! has to be shared by servers. Values of `v1` were sealed with the ring's key itself; they open, and are sealed again at the
//! next start.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, rand};
use bytes::Bytes;

use crate::{Result, StoreError};

/// All versions begin with it.
const MARK: &[u8] = b"skep:sealed:";
const V1: &[u8] = b"skep:sealed:v1:aesgcm:";
const V2: &[u8] = b"skep:sealed:v2:aesgcm:";
/// Of the derivation of values' keys.
const CONTEXT: &[u8] = b"skep sealed value v2";
const SALT_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 4;

/// One key or more; the first seals.
pub struct Keyring {
    keys: Vec<Key>,
}

struct Key {
    id: String,
    /// Opens values of `v1`.
    aead: RandomizedNonceKey,
    derive: hkdf::Prk,
}

/// Why a text is not a keyring. Never contains the text itself, since it has keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyring {
    #[error("it has no key")]
    Empty,
    #[error("line {0} is not a key's id, a space, and 64 hexadecimal digits")]
    Line(usize),
    #[error("line {0} has the id of an earlier line")]
    Twice(usize),
    #[error("the system has no random bytes")]
    Random,
}

/// Why a sealed value does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CannotOpen {
    #[error("it is sealed with key {id}, which this server does not have")]
    NoKey { id: String },
    #[error("its sealed value was altered, or copied from another key")]
    Altered,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

impl Keyring {
    /// One key on each line: its id, a space, and its bytes as hexadecimal digits.
    pub fn parse(text: &str) -> Result<Keyring, BadKeyring> {
        let mut keys: Vec<Key> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let parsed = line.trim().split_once(' ').and_then(|(id, hex)| Key::new(id, &from_hex(hex)?));
            let key = parsed.ok_or(BadKeyring::Line(at + 1))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(BadKeyring::Twice(at + 1));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(BadKeyring::Empty) } else { Ok(Keyring { keys }) }
    }

    /// A line with a new random key.
    pub fn new_line() -> Result<String, BadKeyring> {
        let mut random = [0; ID_BYTES + KEY_BYTES];
        rand::fill(&mut random).map_err(|_| BadKeyring::Random)?;
        let (id, key) = random.split_at(ID_BYTES);
        Ok(format!("{} {}\n", to_hex(id), to_hex(key)))
    }

    /// The id of the key that seals.
    pub fn id(&self) -> &str {
        self.keys.first().map_or("", |key| &key.id)
    }

    pub(super) fn seal(&self, store_key: &str, plain: &[u8]) -> Result<Bytes> {
        let key = self.keys.first().ok_or_else(failed)?;
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| failed())?;
        let aead = key.of_value(&salt).ok_or_else(failed)?;
        let mut text = plain.to_vec();
        let nonce = aead.seal_in_place_append_tag(Aad::from(store_key), &mut text).map_err(|_| failed())?;
        Ok(Bytes::from([V2, key.id.as_bytes(), b":", &salt, nonce.as_ref(), &text].concat()))
    }

    /// Returns a value that is not sealed unchanged: it was stored before there were keys.
    pub(super) fn open(&self, store_key: &str, stored: &Bytes) -> Result<Bytes, CannotOpen> {
        let Some(sealed) = parts(stored) else { return Ok(stored.clone()) };
        let Sealed { id, salt, nonce, text } = sealed.ok_or(CannotOpen::Altered)?;
        let key = self.keys.iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| CannotOpen::NoKey { id: id.to_owned() })?;
        let mut text = text.to_vec();
        let derived = salt.map(|salt| key.of_value(salt).ok_or(CannotOpen::Altered)).transpose()?;
        let aead = derived.as_ref().unwrap_or(&key.aead);
        let opened = aead.open_in_place(nonce, Aad::from(store_key), &mut text);
        let length = opened.map_err(|_| CannotOpen::Altered)?.len();
        text.truncate(length);
        Ok(Bytes::from(text))
    }
}

/// Whether a value is sealed as [`Keyring::seal`] does, with this key.
pub(super) fn is_current(stored: &[u8], id: &str) -> bool {
    matches!(parts(stored), Some(Some(sealed)) if sealed.id == id && sealed.salt.is_some())
}

/// Whether a value is sealed with any key.
pub(super) fn is_sealed(stored: &[u8]) -> bool {
    stored.starts_with(MARK)
}

struct Sealed<'a> {
    id: &'a str,
    /// `None`: of `v1`.
    salt: Option<&'a [u8]>,
    nonce: Nonce,
    text: &'a [u8],
}

/// `None`: not sealed. `Some(None)`: it has the mark, and the rest is malformed.
fn parts(stored: &[u8]) -> Option<Option<Sealed<'_>>> {
    if !stored.starts_with(MARK) {
        return None;
    }
    let read = || {
        let (salt_bytes, rest) = match stored.strip_prefix(V2) {
            Some(rest) => (SALT_BYTES, rest),
            None => (0, stored.strip_prefix(V1)?),
        };
        let end = rest.iter().position(|byte| *byte == b':')?;
        let (salt, sealed) = rest.get(end + 1..)?.split_at_checked(salt_bytes)?;
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let salt = (salt_bytes > 0).then_some(salt);
        Some(Sealed { id: str::from_utf8(&rest[..end]).ok()?, salt, nonce, text })
    };
    Some(read())
}

fn failed() -> StoreError {
    StoreError::Unavailable("sealing a value failed".to_owned())
}

impl Key {
    fn new(id: &str, bytes: &[u8]) -> Option<Key> {
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let aead = RandomizedNonceKey::new(&AES_256_GCM, bytes).ok()?;
        let derive = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, bytes);
        is_id.then(|| Key { id: id.to_owned(), aead, derive })
    }

    /// The key of one value.
    fn of_value(&self, salt: &[u8]) -> Option<RandomizedNonceKey> {
        let mut bytes = [0; KEY_BYTES];
        let info = [CONTEXT, salt];
        self.derive.expand(&info, hkdf::HKDF_SHA256).ok()?.fill(&mut bytes).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    // `from_str_radix` would accept a sign.
    if text.len() != 2 * KEY_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keyring(text: &str) -> Keyring {
        Keyring::parse(text).unwrap()
    }

    proptest! {
        #[test]
        fn a_sealed_value_opens_under_its_store_key_only(plain: Vec<u8>, at: prop::sample::Index) {
            let keys = keyring(&Keyring::new_line().unwrap());
            let sealed = keys.seal("/a", &plain).unwrap();
            prop_assert_eq!(&keys.open("/a", &sealed).unwrap()[..], &plain[..]);
            prop_assert!(keys.open("/b", &sealed).is_err());
            let mut altered = sealed.to_vec();
            let at = V2.len() + at.index(altered.len() - V2.len());
            altered[at] ^= 1;
            prop_assert!(keys.open("/a", &altered.into()).is_err());
        }

        #[test]
        fn foreign_bytes_never_panic(rest: Vec<u8>, text: String) {
            let keys = keyring(&Keyring::new_line().unwrap());
            for mark in [MARK, V1, V2] {
                let _ = keys.open("/a", &[mark, &rest].concat().into());
            }
            let _ = Keyring::parse(&text);
        }
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let (old, new) = (Keyring::new_line().unwrap(), Keyring::new_line().unwrap());
        let sealed = keyring(&old).seal("/a", b"x").unwrap();
        let both = keyring(&format!("{new}{old}"));
        assert_eq!(&both.open("/a", &sealed).unwrap()[..], b"x");
        let again = both.seal("/a", b"x").unwrap();
        assert!(is_current(&again, keyring(&new).id()) && !is_current(&sealed, both.id()));
        let missing = keyring(&new).open("/a", &sealed);
        assert_eq!(missing, Err(CannotOpen::NoKey { id: keyring(&old).id().to_owned() }));
    }

    #[test]
    fn equal_values_have_different_keys_and_values_of_the_former_version_open() {
        let keys = keyring(&Keyring::new_line().unwrap());
        let sealed = [keys.seal("/a", b"x").unwrap(), keys.seal("/a", b"x").unwrap()];
        let salt = |sealed: &Bytes| parts(sealed).flatten().unwrap().salt.unwrap().to_vec();
        assert_ne!(salt(&sealed[0]), salt(&sealed[1]));
        let (key, mut text) = (&keys.keys[0], b"old".to_vec());
        let nonce = key.aead.seal_in_place_append_tag(Aad::from("/a"), &mut text).unwrap();
        let former = Bytes::from([V1, key.id.as_bytes(), b":", nonce.as_ref(), &text].concat());
        assert_eq!(&keys.open("/a", &former).unwrap()[..], b"old");
        assert!(is_sealed(&former) && !is_current(&former, keys.id()) && is_current(&sealed[0], keys.id()));
    }

    #[test]
    fn errors_of_a_bad_file_do_not_contain_its_keys() {
        let line = Keyring::new_line().unwrap();
        assert_eq!(Keyring::parse("\n").err(), Some(BadKeyring::Empty));
        assert_eq!(Keyring::parse(&format!("{line}{line}")).err(), Some(BadKeyring::Twice(2)));
        for bad in ["a", "a 00", "a:b 00", &line[..line.len() - 2], &line.replace(' ', "")] {
            assert_eq!(Keyring::parse(bad).err(), Some(BadKeyring::Line(1)), "{bad}");
        }
    }
}

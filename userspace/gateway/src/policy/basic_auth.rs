//! User names and passwords (RFC 7617), checked against the hashes of htpasswd(1).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;

use super::apr1;

/// Passwords whose check is remembered: a hash is made to be slow.
const MAX_KNOWN: usize = 1_024;

/// Who may send requests.
pub struct BasicAuth {
    /// The value of `WWW-Authenticate`.
    pub(crate) challenge: HeaderValue,
    users: HashMap<Box<str>, Hash>,
    /// Digests of credentials that were right.
    known: Mutex<HashMap<[u8; 32], ()>>,
}

/// A password's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hash {
    Bcrypt(Box<str>),
    /// Salt and digest, in the text form.
    Apr1(Box<str>, Box<str>),
    Sha1(Vec<u8>),
    /// Digest of password and salt, and the salt.
    SaltedSha1(Vec<u8>, Vec<u8>),
    Plain(Box<str>),
}

/// Why a list of users cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    #[error("it names no user")]
    Empty,
    #[error("the password of user {0} has a hash that is not served; bcrypt, apr1 and SHA are")]
    Hash(Box<str>),
    #[error("the realm has characters that a header cannot have")]
    Realm,
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("BasicAuth").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

impl BasicAuth {
    /// `users`: names and hashes.
    pub fn new<'a>(
        realm: &str,
        users: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<BasicAuth, UsersError> {
        let mut all = HashMap::new();
        for (name, hash) in users {
            all.insert(name.into(), parse(hash).ok_or_else(|| UsersError::Hash(name.into()))?);
        }
        if all.is_empty() {
            return Err(UsersError::Empty);
        }
        let realm = realm.replace(['"', '\\'], "");
        let challenge =
            HeaderValue::from_str(&format!("Basic realm=\"{realm}\"")).map_err(|_| UsersError::Realm)?;
        Ok(BasicAuth { challenge, users: all, known: Mutex::default() })
    }

    /// The lines of an htpasswd file.
    pub fn parse_file(text: &str) -> impl Iterator<Item = (&str, &str)> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.filter_map(|line| line.split_once(':'))
    }

    /// Whether the credentials of an `Authorization` header are right, if that is known without work.
    pub(crate) fn known(&self, authorization: Option<&HeaderValue>) -> Option<bool> {
        let Some(authorization) = authorization else { return Some(false) };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains_key(&key_of(authorization)).then_some(true)
    }

    /// Checks them. It takes milliseconds.
    pub(crate) fn verify(&self, authorization: &HeaderValue) -> bool {
        let Some((name, password)) = credentials(authorization) else { return false };
        let Some(hash) = self.users.get(&*name) else { return false };
        let is_right = hash.verify(&password);
        if is_right {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(key_of(authorization), ());
        }
        is_right
    }
}

fn key_of(authorization: &HeaderValue) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, authorization.as_bytes()).as_ref());
    key
}

fn credentials(authorization: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
    let decoded =
        BASE64_STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn parse(hash: &str) -> Option<Hash> {
    let decode = |text: &str| BASE64_STANDARD.decode(text).ok();
    if let Some(rest) = hash.strip_prefix("$apr1$") {
        let (salt, digest) = rest.split_once('$')?;
        return Some(Hash::Apr1(salt.into(), digest.into()));
    }
    if ["$2y$", "$2a$", "$2b$"].iter().any(|prefix| hash.starts_with(prefix)) {
        return Some(Hash::Bcrypt(hash.into()));
    }
    if let Some(encoded) = hash.strip_prefix("{SHA}") {
        return decode(encoded).filter(|digest| digest.len() == 20).map(Hash::Sha1);
    }
    if let Some(encoded) = hash.strip_prefix("{SSHA}") {
        let mut digest = decode(encoded).filter(|all| all.len() > 20)?;
        let salt = digest.split_off(20);
        return Some(Hash::SaltedSha1(digest, salt));
    }
    hash.strip_prefix("{PLAIN}").map(|password| Hash::Plain(password.into()))
}

impl Hash {
    fn verify(&self, password: &str) -> bool {
        let equal = |left: &[u8], right: &[u8]| verify_slices_are_equal(left, right).is_ok();
        let sha1 = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
        match self {
            Hash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or_default(),
            Hash::Apr1(salt, wanted) => equal(apr1::hash(password, salt).as_bytes(), wanted.as_bytes()),
            Hash::Sha1(wanted) => equal(sha1(password.as_bytes()).as_ref(), wanted),
            Hash::SaltedSha1(wanted, salt) => {
                equal(sha1(&[password.as_bytes(), salt].concat()).as_ref(), wanted)
            }
            Hash::Plain(wanted) => equal(password.as_bytes(), wanted.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, password: &str) -> HeaderValue {
        let encoded = BASE64_STANDARD.encode(format!("{name}:{password}"));
        HeaderValue::from_str(&format!("Basic {encoded}")).unwrap()
    }

    /// Hashes as htpasswd(1) of Apache 2.4 and openssl-passwd(1) make them.
    #[test]
    fn hashes_of_htpasswd_are_verified() {
        let file = "# users\nann:$apr1$salt1234$k3J5yKYW6TlGmTytnkXbQ0\nbob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n\nplain:{PLAIN}a:b\n";
        let bcrypt = bcrypt::hash("password", 4).unwrap();
        let users = BasicAuth::parse_file(file).chain([("eve", &*bcrypt)]);
        let auth = BasicAuth::new("a \"realm\"", users).unwrap();
        assert_eq!(auth.challenge, "Basic realm=\"a realm\"");
        for (name, password, is_right) in [
            ("bob", "password", true),
            ("bob", "Password", false),
            ("eve", "password", true),
            ("eve", "", false),
            ("plain", "a:b", true),
            ("nobody", "password", false),
            ("ann", "password", true),
            ("ann", "wrong", false),
        ] {
            let header = header(name, password);
            assert_eq!(auth.verify(&header), is_right, "{name} {password}");
            assert_eq!(auth.known(Some(&header)), is_right.then_some(true), "{name} {password}");
        }
        assert_eq!(auth.known(None), Some(false));
        for text in ["", "Basic", "Basic !", "Bearer eA==", "Basic eA=="] {
            assert!(!auth.verify(&HeaderValue::from_str(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn other_hashes_are_refused() {
        let of = |hash| BasicAuth::new("", [("ann", hash)].into_iter()).map(drop);
        for hash in ["", "secret", "$6$salt$x", "{SHA}x", "{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "$apr1$x"] {
            assert_eq!(of(hash), Err(UsersError::Hash("ann".into())), "{hash}");
        }
        assert_eq!(BasicAuth::new("", std::iter::empty()).map(drop), Err(UsersError::Empty));
    }
}

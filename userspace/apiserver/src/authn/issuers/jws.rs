//! A signed token in compact form (RFC 7515, 7519). PURE. In: a text that anyone may have sent. Out: its claims, which are
//! worth nothing before the signature is verified.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// A longer token is refused before it is parsed.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Clocks may differ by as much where a token begins to be valid, as upstream.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 60;

/// Signature algorithms that issuers may use (RFC 7518). None of them has a shared key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    pub(super) fn of(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "ES512" => Algorithm::Es512,
            _ => return None,
        })
    }
}

/// Why a token of an issuer is refused. Texts name no claim's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    #[error("token signed with an unsupported algorithm")]
    Algorithm,
    #[error("token is for none of the issuer's audiences")]
    Audience,
    #[error("token is expired")]
    Expired,
    #[error("token is not valid yet")]
    NotYetValid,
    #[error("no key verifies the token's signature")]
    Signature,
    #[error("issuer's keys are not known yet")]
    NotInitialized,
    #[error("{0}")]
    Claims(#[from] super::claims::ClaimError),
}

/// The parts of a token.
pub(super) struct Jws<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Jws<'a> {
    /// `None` if a text has another form.
    pub(super) fn split(token: &'a str) -> Option<Jws<'a>> {
        let mut parts = token.split('.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let is_whole = parts.next().is_none() && token.len() <= MAX_TOKEN_BYTES;
        is_whole.then_some(Jws { header, payload, signature })
    }

    /// The claims, not verified.
    pub(super) fn claims(&self) -> Option<Map<String, Value>> {
        object(self.payload)
    }

    pub(super) fn header(&self) -> Result<Header, TokenError> {
        let header = object(self.header).ok_or(TokenError::Malformed("header"))?;
        // Extensions that must be understood: none is.
        if header.contains_key("crit") {
            return Err(TokenError::Malformed("critical header"));
        }
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        let algorithm = text("alg").and_then(Algorithm::of).ok_or(TokenError::Algorithm)?;
        let key_id = text("kid").filter(|id| !id.is_empty()).map(str::to_owned);
        Ok(Header { algorithm, key_id })
    }

    /// What is signed, and its signature.
    pub(super) fn signed(&self, token: &'a str) -> Result<(&'a [u8], Vec<u8>), TokenError> {
        let signature =
            URL_SAFE_NO_PAD.decode(self.signature).map_err(|_| TokenError::Malformed("signature"))?;
        let length = self.header.len() + 1 + self.payload.len();
        Ok((token.as_bytes().get(..length).unwrap_or_default(), signature))
    }
}

pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    /// `None`: any key may have signed.
    pub(super) key_id: Option<String>,
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Whether a token is for one of these audiences.
pub(super) fn check_audience(claims: &Map<String, Value>, wanted: &[String]) -> Result<(), TokenError> {
    let is_wanted =
        |audience: &Value| audience.as_str().is_some_and(|it| wanted.iter().any(|known| known == it));
    let found = match claims.get("aud") {
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => all.iter().any(is_wanted),
        Some(one @ Value::String(_)) => is_wanted(one),
        _ => return Err(TokenError::Malformed("aud")),
    };
    if found { Ok(()) } else { Err(TokenError::Audience) }
}

/// Checks the times of a token; returns when it expires. In seconds since 1970.
pub(super) fn check_times(claims: &Map<String, Value>, now: i64) -> Result<i64, TokenError> {
    let time = |name: &'static str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        // A fraction is cut off, and a number that is too large is the largest.
        Some(Value::Number(number)) => {
            Ok(number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64)))
        }
        Some(_) => Err(TokenError::Malformed(name)),
    };
    let expires = time("exp")?.ok_or(TokenError::Expired)?;
    if expires < now {
        return Err(TokenError::Expired);
    }
    if time("nbf")?.is_some_and(|begins| begins > now.saturating_add(NOT_BEFORE_LEEWAY_SECONDS)) {
        return Err(TokenError::NotYetValid);
    }
    time("iat")?;
    Ok(expires)
}

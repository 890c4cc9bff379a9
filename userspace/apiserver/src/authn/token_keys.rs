//! The keys of service account tokens: EC P-256, known by the hash of the public half, as upstream names them.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::start_error::StartError;

/// Keys of service account tokens, in PEM.
#[derive(Clone)]
pub struct TokenKeys {
    /// An EC P-256 key in PKCS#8, which signs.
    pub private: String,
    /// The public keys whose tokens are valid; that of `private` is the first.
    pub public: Vec<String>,
    pub issuer: String,
}

/// Length of an uncompressed point: a mark, x and y.
const POINT_LENGTH: usize = 65;

/// A public key.
pub(super) struct PublicKey {
    /// The `kid` of tokens signed with its private half.
    id: String,
    key: DecodingKey,
    /// As a JSON Web Key (RFC 7517).
    jwk: Value,
}

impl PublicKey {
    fn read(pem: &str) -> Result<PublicKey, StartError> {
        let bad = || StartError::TokenKey("a public key of service account tokens is not a PEM of EC P-256");
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad())?;
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| bad())?;
        // The point is the last part of the structure (RFC 5480).
        let point = der.len().checked_sub(POINT_LENGTH).map(|at| &der[at..]).ok_or_else(bad)?;
        let [4, coordinates @ ..] = point else { return Err(bad()) };
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &der));
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({
            "use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256", "x": encode(x), "y": encode(y),
        });
        Ok(PublicKey { id, key, jwk })
    }
}

/// The key that signs, and those that verify.
pub(super) struct KeySet {
    pub(super) issuer: String,
    private: EncodingKey,
    /// That of the private key is the first.
    public: Vec<PublicKey>,
}

impl KeySet {
    pub(super) fn read(keys: &TokenKeys) -> Result<KeySet, StartError> {
        let private = EncodingKey::from_ec_pem(keys.private.as_bytes());
        let private = private.map_err(|_| {
            StartError::TokenKey("the private key of service account tokens is not a PEM of EC P-256")
        })?;
        let public = keys.public.iter().map(|pem| PublicKey::read(pem)).collect::<Result<Vec<_>, _>>()?;
        if public.is_empty() {
            return Err(StartError::TokenKey("service account tokens need at least one public key"));
        }
        Ok(KeySet { issuer: keys.issuer.clone(), private, public })
    }

    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        let kid = self.public.first().map(|key| key.id.clone());
        let header = Header { kid, ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.private)
    }

    /// The keys by which a token may be signed: the one that it names, or all if it names none.
    pub(super) fn candidates(&self, token: &str) -> impl Iterator<Item = &DecodingKey> {
        let named = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        let keys = self.public.iter().filter(move |key| named.as_ref().is_none_or(|id| *id == key.id));
        keys.map(|key| &key.key)
    }

    pub(super) fn jwks(&self) -> Value {
        json!({"keys": self.public.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
    }
}

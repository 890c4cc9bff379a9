//! The public keys of an issuer: a JSON Web Key Set (RFC 7517), and what its keys have signed.

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::jws::{Algorithm, Header};

/// Keys of one set. More are not read.
const MAX_KEYS: usize = 256;

/// The keys that an issuer publishes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeySet(Vec<PublicKey>);

#[derive(Debug, PartialEq, Eq)]
struct PublicKey {
    id: Option<String>,
    /// The only algorithm that it is for; `None`: each that fits its type.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point.
    Elliptic {
        curve: Curve,
        point: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl KeySet {
    /// Keys of other types and for other uses are left out. `None` if the document is none.
    pub(super) fn parse(document: &[u8]) -> Option<KeySet> {
        let document: Value = serde_json::from_slice(document).ok()?;
        let keys = document.get("keys")?.as_array()?;
        Some(KeySet(keys.iter().take(MAX_KEYS).filter_map(PublicKey::read).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys made a signature. The algorithm is the header's, and it must fit the key: an RSA key verifies
    /// nothing that is said to be elliptic, and no key is a shared secret.
    pub(super) fn verifies(&self, header: &Header, signed: &[u8], signature: &[u8]) -> bool {
        let candidates = self.0.iter().filter(|key| header.key_id.is_none() || key.id == header.key_id);
        let mut fitting = candidates.filter(|key| key.algorithm.is_none_or(|it| it == header.algorithm));
        fitting.any(|key| key.material.verifies(header.algorithm, signed, signature))
    }
}

impl PublicKey {
    fn read(key: &Value) -> Option<PublicKey> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let algorithm = match text("alg") {
            None => None,
            // A key for an algorithm that is not supported verifies nothing.
            Some(name) => Some(Algorithm::of(name)?),
        };
        let material = match text("kty")? {
            "RSA" => {
                let strip =
                    |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
                Material::Rsa { modulus: strip(bytes("n")?), exponent: strip(bytes("e")?) }
            }
            "EC" => {
                let (curve, length) = match text("crv")? {
                    "P-256" => (Curve::P256, 32),
                    "P-384" => (Curve::P384, 48),
                    "P-521" => (Curve::P521, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                Material::Elliptic { curve, point: [&[4], x.as_slice(), &y].concat() }
            }
            _ => return None,
        };
        Some(PublicKey { id: text("kid").map(str::to_owned), algorithm, material })
    }
}

impl Material {
    fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Material::Rsa { modulus, exponent } => {
                let Some(parameters) = rsa_parameters(algorithm) else { return false };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, signed, signature).is_ok()
            }
            Material::Elliptic { curve, point } => {
                let Some(verification) = elliptic_algorithm(algorithm, *curve) else { return false };
                UnparsedPublicKey::new(verification, point).verify(signed, signature).is_ok()
            }
        }
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => return None,
    })
}

/// Each algorithm has its curve (RFC 7518, section 3.4).
fn elliptic_algorithm(algorithm: Algorithm, curve: Curve) -> Option<&'static EcdsaVerificationAlgorithm> {
    Some(match (algorithm, curve) {
        (Algorithm::Es256, Curve::P256) => &signature::ECDSA_P256_SHA256_FIXED,
        (Algorithm::Es384, Curve::P384) => &signature::ECDSA_P384_SHA384_FIXED,
        (Algorithm::Es512, Curve::P521) => &signature::ECDSA_P521_SHA512_FIXED,
        _ => return None,
    })
}

//! A real issuer of tokens: a discovery document and a key set over HTTPS, and keys that sign.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RsaEncoding};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use skep_tests::api_server::Authority;
use skep_tests::far_end::{Answer, serve, tls};

pub(crate) const AUDIENCE: &str = "skep";

/// A private key of an issuer.
pub(crate) struct SigningKey {
    pub(crate) id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<rsa::KeyPair>),
    Elliptic { pair: EcdsaKeyPair, curve: &'static str },
}

impl SigningKey {
    pub(crate) fn rsa(id: &str) -> Result<SigningKey> {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048)?;
        Ok(SigningKey { id: id.to_owned(), pair: Pair::Rsa(Box::new(pair)) })
    }

    pub(crate) fn elliptic(id: &str, curve: &'static str) -> Result<SigningKey> {
        let algorithm: &'static EcdsaSigningAlgorithm = match curve {
            "P-256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            "P-384" => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            _ => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        };
        let pair = EcdsaKeyPair::generate(algorithm)?;
        Ok(SigningKey { id: id.to_owned(), pair: Pair::Elliptic { pair, curve } })
    }

    /// The public half as anyone can read it.
    pub(crate) fn public(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Elliptic { pair, .. } => pair.public_key().as_ref().to_vec(),
        }
    }

    fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair) => {
                let modulus = pair.public_key().modulus();
                let modulus = encode(modulus.big_endian_without_leading_zero());
                json!({"kty": "RSA", "use": "sig", "kid": self.id, "n": modulus, "e": "AQAB"})
            }
            Pair::Elliptic { pair, curve } => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "use": "sig", "kid": self.id, "crv": curve, "x": encode(x), "y": encode(y)})
            }
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signed)?;
                Ok(signed)
            }
            Pair::Elliptic { pair, .. } => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
        }
    }

    /// A token with this header beside algorithm and key, and these claims.
    pub(crate) fn token(&self, algorithm: &str, header: &Value, claims: &Value) -> Result<String> {
        let mut all = json!({"alg": algorithm, "kid": self.id, "typ": "JWT"});
        for (name, value) in header.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let message = encoded(&all, claims);
        let signed = URL_SAFE_NO_PAD.encode(self.sign(algorithm, message.as_bytes())?);
        Ok(format!("{message}.{signed}"))
    }
}

/// Header and claims of a token without its signature.
pub(crate) fn encoded(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// What the issuer's server does.
#[derive(Default)]
struct Served {
    keys: Mutex<Vec<Value>>,
    /// What the discovery document says that the issuer is, if that is not its URL.
    other_name: Mutex<Option<String>>,
    down: AtomicBool,
    key_fetches: AtomicUsize,
}

pub(crate) struct Issuer {
    pub(crate) url: String,
    /// PEM of the CA of its server.
    pub(crate) ca: String,
    served: Arc<Served>,
}

impl Issuer {
    pub(crate) async fn start(keys: &[&SigningKey]) -> Result<Issuer> {
        let ca = Authority::new()?;
        let pem = ca.issue("issuer", "x")?;
        let served = Arc::new(Served::default());
        let shared = served.clone();
        let answer = move |request: hyper::Request<hyper::body::Incoming>| {
            let shared = shared.clone();
            async move { shared.answer(&request) }
        };
        let address = serve(Ipv4Addr::LOCALHOST.into(), tls(&pem, None), answer).await;
        let issuer = Issuer { url: format!("https://{address}"), ca: ca.certificate, served };
        issuer.publish(keys);
        Ok(issuer)
    }

    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        *self.served.keys.lock().unwrap() = keys.iter().map(|key| key.jwk()).collect();
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.served.down.store(down, Ordering::SeqCst);
    }

    pub(crate) fn call_itself(&self, name: &str) {
        *self.served.other_name.lock().unwrap() = Some(name.to_owned());
    }

    pub(crate) fn key_fetches(&self) -> usize {
        self.served.key_fetches.load(Ordering::SeqCst)
    }

    /// Claims of a token that is valid now.
    pub(crate) fn claims(&self, more: &Value) -> Value {
        let now = seconds();
        let mut claims =
            json!({"iss": self.url, "aud": AUDIENCE, "sub": "jane", "exp": now + 600, "iat": now});
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }

    /// An entry of the `jwt` list, with these further fields.
    pub(crate) fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "issuer": {"url": self.url, "audiences": [AUDIENCE], "certificateAuthority": self.ca},
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "oidc:"}, "groups": {"claim": "groups", "prefix": "oidc:"},
            },
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        config
    }
}

impl Served {
    fn answer(&self, request: &hyper::Request<hyper::body::Incoming>) -> Answer {
        let mut code = 200;
        let body = match request.uri().path() {
            _ if self.down.load(Ordering::SeqCst) => {
                code = 503;
                Value::Null
            }
            "/.well-known/openid-configuration" => {
                let host = request.headers()["host"].to_str().unwrap();
                let url = format!("https://{host}");
                let name = self.other_name.lock().unwrap().clone().unwrap_or_else(|| url.clone());
                json!({"issuer": name, "jwks_uri": format!("{url}/keys")})
            }
            "/keys" => {
                self.key_fetches.fetch_add(1, Ordering::SeqCst);
                json!({"keys": *self.keys.lock().unwrap()})
            }
            _ => {
                code = 404;
                Value::Null
            }
        };
        let body = Full::new(bytes::Bytes::from(body.to_string())).boxed();
        hyper::Response::builder().status(code).body(body).unwrap()
    }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Writes an AuthenticationConfiguration.
pub(crate) fn write_config(path: &Path, content: &Value) -> Result<()> {
    let mut file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration"});
    for (name, value) in content.as_object().into_iter().flatten() {
        file[name] = value.clone();
    }
    // A rename: no reader sees a part of it.
    let new = path.with_extension("new");
    std::fs::write(&new, file.to_string())?;
    Ok(std::fs::rename(new, path)?)
}

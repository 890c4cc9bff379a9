//! Tokens and key sets as anyone may send them. Signatures are tested against a server (tests/attacks).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::jws::{check_audience, check_times};
use super::keys::KeySet;
use super::*;

fn claims(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

#[test]
fn a_header_without_a_signature_of_an_issuer_is_refused() {
    let header = |header: Value| {
        let token = format!("{}.e30.", URL_SAFE_NO_PAD.encode(header.to_string()));
        Jws::split(&token).map(|jws| jws.header().map(|header| header.algorithm))
    };
    let refused = Some(Err(TokenError::Algorithm));
    for name in ["none", "None", "NONE", "HS256", "HS512", "EdDSA", "rs256", ""] {
        assert_eq!(header(json!({"alg": name})), refused, "{name}");
    }
    assert_eq!(header(json!({})), refused);
    assert_eq!(header(json!({"alg": ["RS256"]})), refused);
    assert_eq!(header(json!({"alg": "RS256"})), Some(Ok(Algorithm::Rs256)));
    let critical = json!({"alg": "RS256", "crit": ["b64"], "b64": false});
    assert_eq!(header(critical), Some(Err(TokenError::Malformed("critical header"))));
}

#[test]
fn a_token_has_three_parts_and_a_bounded_length() {
    for token in ["", ".", "a.b", "a.b.c.d", &format!("{}.e30.x", "a".repeat(70_000))] {
        assert!(Jws::split(token).is_none(), "{token:.20}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(&deep[..40_000]));
    assert!(Jws::split(&deep).unwrap().claims().is_none());
    let nested = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    let nested = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(nested));
    assert!(Jws::split(&nested).unwrap().claims().is_none());
}

#[test]
fn a_token_is_valid_for_its_time() {
    for (value, wanted) in [
        (json!({"exp": 100}), Ok(100)),
        (json!({"exp": 100.9}), Ok(100)),
        (json!({"exp": 99}), Err(TokenError::Expired)),
        (json!({}), Err(TokenError::Expired)),
        (json!({"exp": null}), Err(TokenError::Expired)),
        (json!({"exp": "200"}), Err(TokenError::Malformed("exp"))),
        (json!({"exp": 1e300}), Ok(i64::MAX)),
        (json!({"exp": -1e300}), Err(TokenError::Expired)),
        (json!({"exp": 200, "nbf": 160}), Ok(200)),
        (json!({"exp": 200, "nbf": 161}), Err(TokenError::NotYetValid)),
        (json!({"exp": 200, "nbf": {}}), Err(TokenError::Malformed("nbf"))),
    ] {
        assert_eq!(check_times(&claims(value.clone()), 100), wanted, "{value}");
    }
}

#[test]
fn a_token_is_for_one_of_the_audiences() {
    let wanted = ["a".to_owned(), "b".to_owned()];
    for (audience, allowed) in [
        (json!("a"), true),
        (json!(["x", "b"]), true),
        (json!("x"), false),
        (json!([]), false),
        (json!(["a", 1]), false),
        (json!({"a": true}), false),
        (Value::Null, false),
    ] {
        let found = check_audience(&claims(json!({"aud": audience})), &wanted);
        assert_eq!(found.is_ok(), allowed, "{audience}");
    }
    assert!(check_audience(&claims(json!({})), &wanted).is_err());
}

#[test]
fn keys_that_verify_nothing_are_left_out() {
    let elliptic = json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([2; 32])});
    let with = |change: Value| {
        let mut key = elliptic.clone();
        key.as_object_mut().unwrap().extend(claims(change));
        key
    };
    for (key, is_kept) in [
        (elliptic.clone(), true),
        (with(json!({"use": "sig", "alg": "ES256"})), true),
        (with(json!({"use": "enc"})), false),
        (with(json!({"alg": "ES256K"})), false),
        (with(json!({"crv": "P-384"})), false),
        (with(json!({"x": "!"})), false),
        (json!({"kty": "oct", "k": "c2VjcmV0"}), false),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), false),
        (json!("key"), false),
    ] {
        let set = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap();
        assert_eq!(!set.is_empty(), is_kept, "{key}");
    }
    assert_eq!(KeySet::parse(b"{}"), None);
    assert_eq!(KeySet::parse(b"["), None);
}

proptest! {
    /// No text makes the parsers panic.
    #[test]
    fn any_token_is_parsed_or_refused(parts in prop::collection::vec("[ -~]{0,40}", 0..5), encode in any::<bool>()) {
        let parts = parts.iter().map(|part| if encode { URL_SAFE_NO_PAD.encode(part) } else { part.clone() });
        let token = parts.collect::<Vec<_>>().join(".");
        if let Some(jws) = Jws::split(&token) {
            let _ = (jws.claims(), jws.header().is_ok(), jws.signed(&token).is_ok());
        }
        KeySet::parse(token.as_bytes());
    }
}

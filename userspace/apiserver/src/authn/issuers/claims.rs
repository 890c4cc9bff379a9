//! The user whom the claims of a verified token name. PURE.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value, json};
use skep_api::cel::{self, Bindings};

use crate::auth_config::{
    CLAIMS, ClaimRule, ClaimSource, ConfigExpression, ExpressionError, IssuerConfig, Rule, USER,
};
use crate::authn::token::credential_id;
use crate::identity::{CREDENTIAL, Identity};

const EMAIL: &str = "email";
const EMAIL_VERIFIED: &str = "email_verified";
/// Where claims are that another server has (OpenID Connect Core 1.0, section 5.6.2).
const DISTRIBUTED: &str = "_claim_names";

/// Why a verified token names no user. Texts have names of claims and the configuration's own words, and no claim's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("claim {claim:?} of the {what} {why}")]
    Mapping { what: &'static str, claim: String, why: &'static str },
    #[error("the expression of the {what} must return {wanted}")]
    Type { what: &'static str, wanted: &'static str },
    #[error("username is empty")]
    NoName,
    #[error("email is not verified")]
    NotVerified,
    #[error("claim {0:?} is distributed, which is not supported")]
    Distributed(String),
    #[error("required claim {0:?} is not present or has another value")]
    Required(String),
    #[error("validation expression '{expression}' failed: {message}")]
    Rule { expression: String, message: String },
    #[error("{0}")]
    Expression(#[from] ExpressionError),
}

/// The user, without the group of all who are authenticated.
pub(super) fn identity(config: &IssuerConfig, claims: &Map<String, Value>) -> Result<Identity, ClaimError> {
    let numbers = floats(&Value::Object(claims.clone()));
    let bindings = Bindings::from([(CLAIMS, cel::of_json(&numbers))]);
    let mappings = &config.mappings;
    let user = username(&mappings.username, claims, &bindings)?;
    let groups = mappings.groups.as_ref().map(|source| groups(source, claims, &bindings)).transpose()?;
    let uid = mappings.uid.as_ref().map(|source| uid(source, claims, &bindings)).transpose()?;
    let mut extra = BTreeMap::new();
    if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        extra.insert(CREDENTIAL.to_owned(), vec![credential_id(id)]);
    }
    for (key, expression) in &mappings.extra {
        let values = texts(expression, "extra", &bindings)?;
        if !values.is_empty() {
            extra.insert(key.clone(), values);
        }
    }
    for rule in &config.claim_rules {
        match rule {
            ClaimRule::Required { claim, value }
                if claims.get(claim).and_then(Value::as_str) == Some(value) => {}
            ClaimRule::Required { claim, .. } => return Err(ClaimError::Required(claim.clone())),
            ClaimRule::Expression(rule) => check(rule, &bindings)?,
        }
    }
    let identity = Identity { user, groups: groups.unwrap_or_default(), uid: uid.unwrap_or_default(), extra };
    check_user(&config.user_rules, &identity)?;
    Ok(identity)
}

fn check_user(rules: &[Rule], identity: &Identity) -> Result<(), ClaimError> {
    if rules.is_empty() {
        return Ok(());
    }
    let Identity { user, groups, uid, extra } = identity;
    let user = json!({"username": user, "uid": uid, "groups": groups, "extra": extra});
    let bindings = Bindings::from([(USER, cel::of_json(&user))]);
    rules.iter().try_for_each(|rule| check(rule, &bindings))
}

fn check(rule: &Rule, bindings: &Bindings<'_>) -> Result<(), ClaimError> {
    if rule.expression.holds(bindings)? {
        return Ok(());
    }
    let (expression, message) = (rule.expression.source().to_owned(), rule.message.clone());
    Err(ClaimError::Rule { expression, message })
}

fn username(
    source: &ClaimSource,
    claims: &Map<String, Value>,
    bindings: &Bindings<'_>,
) -> Result<String, ClaimError> {
    let name = text(source, "username", claims, bindings)?;
    if name.is_empty() {
        return Err(ClaimError::NoName);
    }
    let ClaimSource::Claim { name: claim, prefix } = source else { return Ok(name) };
    let verified = claims.get(EMAIL_VERIFIED);
    if claim == EMAIL && verified.is_some_and(|verified| *verified != Value::Bool(true)) {
        return Err(ClaimError::NotVerified);
    }
    Ok(format!("{prefix}{name}"))
}

fn uid(
    source: &ClaimSource,
    claims: &Map<String, Value>,
    bindings: &Bindings<'_>,
) -> Result<String, ClaimError> {
    text(source, "uid", claims, bindings)
}

/// One text, without a prefix.
fn text(
    source: &ClaimSource,
    what: &'static str,
    claims: &Map<String, Value>,
    bindings: &Bindings<'_>,
) -> Result<String, ClaimError> {
    match source {
        ClaimSource::Claim { name, .. } => match claims.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            found => {
                let why = if found.is_some() { "is no string" } else { "is not present" };
                Err(ClaimError::Mapping { what, claim: name.clone(), why })
            }
        },
        ClaimSource::Expression(expression) => match expression.evaluate(bindings)? {
            cel::Value::String(text) => Ok(text.to_string()),
            _ => Err(ClaimError::Type { what, wanted: "a string" }),
        },
    }
}

/// One text or a list of texts; none if the claim is absent.
fn groups(
    source: &ClaimSource,
    claims: &Map<String, Value>,
    bindings: &Bindings<'_>,
) -> Result<Vec<String>, ClaimError> {
    let (name, prefix) = match source {
        ClaimSource::Expression(expression) => return texts(expression, "groups", bindings),
        ClaimSource::Claim { name, prefix } => (name, prefix),
    };
    let bad = || ClaimError::Mapping {
        what: "groups",
        claim: name.clone(),
        why: "is neither a string nor a list of strings",
    };
    let found: Vec<&str> = match claims.get(name) {
        None if claims.get(DISTRIBUTED).is_some_and(|names| names.get(name).is_some()) => {
            return Err(ClaimError::Distributed(name.clone()));
        }
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => {
            all.iter().map(|it| it.as_str().ok_or_else(bad)).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(bad()),
    };
    Ok(found.into_iter().map(|group| format!("{prefix}{group}")).collect())
}

/// The texts of an expression's value, without empty ones.
fn texts(
    expression: &ConfigExpression,
    what: &'static str,
    bindings: &Bindings<'_>,
) -> Result<Vec<String>, ClaimError> {
    let bad = || ClaimError::Type { what, wanted: "a string or a list of strings" };
    let values = match expression.evaluate(bindings)? {
        cel::Value::Null => Vec::new(),
        one @ cel::Value::String(_) => vec![one],
        cel::Value::List(all) => all.items().map_err(|_| bad())?,
        _ => return Err(bad()),
    };
    let texts = values.into_iter().map(|value| match value {
        cel::Value::String(text) => Ok(text.to_string()),
        _ => Err(bad()),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

/// Numbers of claims are floating point in expressions, as upstream reads them.
fn floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => {
            number.as_f64().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
        }
        Value::Array(items) => items.iter().map(floats).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), floats(value))).collect(),
        other => other.clone(),
    }
}

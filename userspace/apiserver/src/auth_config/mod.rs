//! Files of the group apiserver.config.k8s.io: read strictly, every error with the path of its field, in upstream's words.

mod authentication;
mod authorization;
mod claim_mappings;
mod expressions;
mod fields;
mod issuer_url;
mod scopes;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use skep_api::Errors;

pub(crate) use authentication::{Anonymous, AuthenticationConfig, ClaimRule, IssuerConfig, Rule};
pub(crate) use authorization::{AuthorizationConfig, AuthorizerKind, FailurePolicy, WebhookConfig};
pub(crate) use claim_mappings::ClaimSource;
pub(crate) use expressions::{ConfigExpression, ExpressionError};
pub(crate) use scopes::{CLAIMS, REQUEST, USER};

/// Why a file was refused, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(why: impl Into<String>) -> ConfigError {
        ConfigError(why.into())
    }

    /// Several reasons as one: each once, in brackets.
    fn joined(mut reasons: Vec<String>) -> Option<ConfigError> {
        let mut known = BTreeSet::new();
        reasons.retain(|reason| known.insert(reason.clone()));
        match reasons.as_slice() {
            [] => None,
            [one] => Some(ConfigError(one.clone())),
            many => Some(ConfigError(format!("[{}]", many.join(", ")))),
        }
    }

    fn of(errors: &Errors) -> Option<ConfigError> {
        ConfigError::joined(errors.0.iter().map(ToString::to_string).collect())
    }
}

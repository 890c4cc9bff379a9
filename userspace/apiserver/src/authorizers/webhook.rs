//! A webhook that is asked whether a request is allowed: it gets a SubjectAccessReview, and its answer stays good for a while.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use skep_api::cel::{self, Bindings};

use super::metrics::{AuthorizationMetrics, WebhookMetrics};
use super::review_spec;
use crate::auth_config::{ExpressionError, FailurePolicy, REQUEST, WebhookConfig};
use crate::authz::Attributes;
use crate::dial::Dialer;
use crate::expiring::{Expiring, key_of};
use crate::kubeconfig::{KubeconfigError, RemoteServer};
use crate::webhook_call::{CallError, post_review};

const GROUP: &str = "authorization.k8s.io";
/// Answers that are kept, as upstream.
const MAX_ANSWERS: usize = 8_192;
/// Answers to longer questions are not kept: the requester decides how long they are.
const MAX_CACHED_BYTES: usize = 10_000;

pub(super) struct WebhookAuthorizer {
    name: String,
    config: WebhookConfig,
    server: RemoteServer,
    answers: Expiring<Answer>,
    metrics: WebhookMetrics,
}

/// What the webhook said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    allowed: bool,
    denied: bool,
    reason: String,
}

/// What follows for the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opinion {
    Allow(String),
    Deny(String),
    /// The next authorizer is asked.
    None(String),
    /// It could not be asked. `ends`: and nothing else may allow the request.
    Failed {
        why: String,
        ends: bool,
    },
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("match conditions: {0}")]
    Conditions(#[from] ExpressionError),
    #[error("webhook subject access review returned both allow and deny response")]
    Contradiction,
}

impl WebhookAuthorizer {
    pub(super) fn new(
        name: &str,
        config: WebhookConfig,
        metrics: &AuthorizationMetrics,
        dialer: &Dialer,
    ) -> Result<WebhookAuthorizer, KubeconfigError> {
        Ok(WebhookAuthorizer {
            name: name.to_owned(),
            server: RemoteServer::read(&config.kubeconfig, dialer)?,
            config,
            answers: Expiring::new(MAX_ANSWERS),
            metrics: metrics.of_webhook(name),
        })
    }

    pub(super) async fn authorize(&self, attributes: &Attributes<'_>) -> Opinion {
        match self.ask(attributes).await {
            Ok(None) => Opinion::None(String::new()),
            Ok(Some(answer)) if answer.denied => Opinion::Deny(answer.reason),
            Ok(Some(answer)) if answer.allowed => Opinion::Allow(answer.reason),
            Ok(Some(answer)) => Opinion::None(answer.reason),
            Err(error) => {
                tracing::warn!(authorizer = self.name, %error, "authorization webhook failed");
                let contradicts = matches!(error, AskError::Contradiction);
                Opinion::Failed {
                    why: format!("authorization webhook \"{}\" failed", self.name),
                    ends: contradicts || self.config.failure_policy == FailurePolicy::Deny,
                }
            }
        }
    }

    /// `None`: the match conditions leave the request out.
    async fn ask(&self, attributes: &Attributes<'_>) -> Result<Option<Answer>, AskError> {
        if !self.matches(attributes)? {
            return Ok(None);
        }
        let spec = review_spec::of(attributes, self.config.version);
        let text = spec.to_string();
        let key = key_of([text.as_str()]);
        let answer = match self.answers.get(&key, Instant::now()) {
            Some(known) => known,
            None => {
                let answer = self.call(spec).await?;
                let ttl =
                    if answer.allowed { self.config.authorized_ttl } else { self.config.unauthorized_ttl };
                if let Some(ttl) = ttl.filter(|_| review_spec::size(attributes) < MAX_CACHED_BYTES) {
                    self.answers.insert(key, answer.clone(), ttl, Instant::now());
                }
                answer
            }
        };
        if answer.allowed && answer.denied {
            return Err(AskError::Contradiction);
        }
        Ok(Some(answer))
    }

    /// One condition that is false leaves the request out, even if others fail.
    fn matches(&self, attributes: &Attributes<'_>) -> Result<bool, ExpressionError> {
        if self.config.conditions.is_empty() {
            return Ok(true);
        }
        let request = review_spec::for_conditions(attributes);
        let bindings = Bindings::from([(REQUEST, cel::of_json(&request))]);
        let mut failed = None;
        for condition in &self.config.conditions {
            match condition.holds(&bindings) {
                Ok(true) => {}
                Ok(false) => {
                    self.metrics.record_exclusion();
                    return Ok(false);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            None => Ok(true),
            Some(error) => {
                self.metrics.record_condition_error();
                Err(error)
            }
        }
    }

    async fn call(&self, spec: Value) -> Result<Answer, CallError> {
        let api_version = format!("{GROUP}/{}", self.config.version);
        let review = json!({
            "apiVersion": api_version, "kind": "SubjectAccessReview", "metadata": {"creationTimestamp": null},
            "spec": spec, "status": {"allowed": false},
        });
        let (body, at) = (Bytes::from(review.to_string()), Instant::now());
        let timeout: Duration = self.config.timeout;
        let called = post_review(&self.server, &api_version, "SubjectAccessReview", body, timeout).await;
        let result = match &called {
            Ok(_) => "success",
            Err(error) if error.is_timeout() => "timeout",
            Err(_) => "error",
        };
        self.metrics.record_call(result, at.elapsed());
        if called.is_err() && self.config.failure_policy == FailurePolicy::NoOpinion {
            self.metrics.record_fail_open(result);
        }
        let status = called?;
        Ok(Answer {
            allowed: status["allowed"] == true,
            denied: status["denied"] == true,
            reason: status["reason"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

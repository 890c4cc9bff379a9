//! The authorizers that are asked about a request, in the order of the authorization configuration. The server's own ones decide
//! by what the caches hold; webhooks are asked.

mod metrics;
mod reload;
mod review_spec;
mod webhook;

use std::path::PathBuf;

use crate::auth_config::{AuthorizationConfig, AuthorizerKind, ConfigError};
use crate::authz::{Attributes, Authorizer, Decision, OwnAuthorizer};
use crate::dial::Dialer;
use crate::kubeconfig::KubeconfigError;
pub(crate) use metrics::AuthorizationMetrics;
use metrics::Decisions;
pub(crate) use reload::AuthorizationFile;
use webhook::{Opinion, WebhookAuthorizer};

/// Why an authorization configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizationError {
    #[error("read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("the connection of authorizer \"{name}\": {error}")]
    Kubeconfig { name: String, error: KubeconfigError },
}

/// The authorizers in order. The first that allows or denies a request decides.
pub(crate) struct Chain(Vec<Link>);

struct Link {
    kind: LinkKind,
    /// `None`: its decisions are not counted.
    decisions: Option<Decisions>,
}

enum LinkKind {
    Own(OwnAuthorizer),
    Webhook(Box<WebhookAuthorizer>),
}

impl Default for Chain {
    /// Without a configuration.
    fn default() -> Chain {
        let own = [OwnAuthorizer::Node, OwnAuthorizer::Rbac];
        Chain(own.into_iter().map(|own| Link { kind: LinkKind::Own(own), decisions: None }).collect())
    }
}

/// What the authorizers said that were asked so far.
#[derive(Default)]
pub(crate) struct Progress {
    /// The next one to ask.
    at: usize,
    reasons: Vec<String>,
    failures: Vec<String>,
}

impl Progress {
    /// The decision after the last authorizer.
    fn end(self) -> Decision {
        if self.failures.is_empty() {
            Decision::NoOpinion(self.reasons.join(", "))
        } else {
            Decision::Failed(self.failures.join(", "))
        }
    }

    fn add_reason(&mut self, reason: String) {
        self.reasons.extend(Some(reason).filter(|reason| !reason.is_empty()));
    }
}

impl Chain {
    pub(crate) fn new(
        config: AuthorizationConfig,
        metrics: &AuthorizationMetrics,
        dialer: &Dialer,
    ) -> Result<Chain, AuthorizationError> {
        let links = config.0.into_iter().map(|authorizer| {
            let (name, kind) = (authorizer.name, authorizer.kind);
            let decisions = Some(metrics.decisions(kind.name(), &name));
            let kind = match kind {
                AuthorizerKind::Node => LinkKind::Own(OwnAuthorizer::Node),
                AuthorizerKind::Rbac => LinkKind::Own(OwnAuthorizer::Rbac),
                AuthorizerKind::Webhook(config) => {
                    match WebhookAuthorizer::new(&name, *config, metrics, dialer) {
                        Ok(webhook) => LinkKind::Webhook(Box::new(webhook)),
                        Err(error) => return Err(AuthorizationError::Kubeconfig { name, error }),
                    }
                }
            };
            Ok(Link { kind, decisions })
        });
        links.collect::<Result<_, _>>().map(Chain)
    }

    pub(crate) fn has_webhooks(&self) -> bool {
        self.0.iter().any(|link| matches!(link.kind, LinkKind::Webhook(_)))
    }

    pub(crate) fn has(&self, wanted: OwnAuthorizer) -> bool {
        self.0.iter().any(|link| matches!(link.kind, LinkKind::Own(own) if own == wanted))
    }

    /// Asks the server's own authorizers up to the next webhook. `Err`: that webhook is next.
    pub(crate) fn decide_own(
        &self,
        own: &Authorizer,
        attributes: &Attributes<'_>,
        mut progress: Progress,
    ) -> Result<Decision, Progress> {
        while let Some(link) = self.0.get(progress.at) {
            let LinkKind::Own(by) = link.kind else { return Err(progress) };
            match own.authorize(by, attributes) {
                Decision::NoOpinion(reason) => progress.add_reason(reason),
                decision => {
                    link.count(&decision);
                    return Ok(decision);
                }
            }
            progress.at += 1;
        }
        Ok(progress.end())
    }

    /// Asks the webhook that is next. `Err`: go on after it.
    pub(crate) async fn ask_webhook(
        &self,
        attributes: &Attributes<'_>,
        mut progress: Progress,
    ) -> Result<Decision, Progress> {
        let Some(link) = self.0.get(progress.at) else { return Ok(progress.end()) };
        let LinkKind::Webhook(webhook) = &link.kind else { return Err(progress) };
        let decision = match webhook.authorize(attributes).await {
            Opinion::Allow(reason) => Decision::Allow(reason),
            Opinion::Deny(reason) => Decision::Deny(reason),
            Opinion::Failed { why, ends: true } => Decision::Failed(why),
            Opinion::Failed { why, ends: false } => {
                progress.failures.push(why);
                progress.at += 1;
                return Err(progress);
            }
            Opinion::None(reason) => {
                progress.add_reason(reason);
                progress.at += 1;
                return Err(progress);
            }
        };
        link.count(&decision);
        Ok(decision)
    }
}

impl Link {
    fn count(&self, decision: &Decision) {
        let Some(decisions) = &self.decisions else { return };
        match decision {
            Decision::Allow(_) => decisions.allowed.inc(),
            Decision::Deny(_) | Decision::Failed(_) => decisions.denied.inc(),
            Decision::NoOpinion(_) => return,
        };
    }
}

//! Metrics under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::watched_file::ReloadMetrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    r#type: &'static str,
    name: String,
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    name: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthorizerLabels {
    r#type: &'static str,
    name: String,
}

/// Upper bounds in seconds, as upstream's.
const CALL_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone)]
pub(crate) struct AuthorizationMetrics {
    decisions: Family<DecisionLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    durations: Family<CallLabels, Histogram, fn() -> Histogram>,
    fail_open: Family<CallLabels, Counter>,
    condition_errors: Family<AuthorizerLabels, Counter>,
    exclusions: Family<AuthorizerLabels, Counter>,
    pub(super) reloads: ReloadMetrics,
}

impl AuthorizationMetrics {
    pub(crate) fn register(registry: &mut Registry) -> AuthorizationMetrics {
        let metrics = AuthorizationMetrics {
            decisions: Family::default(),
            calls: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
            fail_open: Family::default(),
            condition_errors: Family::default(),
            exclusions: Family::default(),
            reloads: ReloadMetrics::register(registry, "apiserver_authorization_config_controller"),
        };
        let mut add = |name: &str, help: &str, metric: &Family<CallLabels, Counter>| {
            registry.register(format!("apiserver_authorization_{name}"), help, metric.clone());
        };
        add("webhook_evaluations", "Questions to authorization webhooks", &metrics.calls);
        let help = "Questions without an answer after which the other authorizers were asked";
        add("webhook_evaluations_fail_open", help, &metrics.fail_open);
        let name = "apiserver_authorization_webhook_duration_seconds";
        registry.register(name, "Seconds until a webhook answered", metrics.durations.clone());
        let name = "apiserver_authorization_decisions";
        registry.register(name, "Decisions of an authorizer that ended the chain", metrics.decisions.clone());
        let mut add = |name: &str, help: &str, metric: &Family<AuthorizerLabels, Counter>| {
            registry.register(format!("apiserver_authorization_{name}"), help, metric.clone());
        };
        let help = "Requests for which a match condition has no value";
        add("match_condition_evaluation_errors", help, &metrics.condition_errors);
        let help = "Requests that the match conditions of a webhook leave out";
        add("match_condition_exclusions", help, &metrics.exclusions);
        metrics
    }

    /// The counters of one authorizer's decisions.
    pub(super) fn decisions(&self, r#type: &'static str, name: &str) -> Decisions {
        let counter = |decision| {
            let labels = DecisionLabels { r#type, name: name.to_owned(), decision };
            self.decisions.get_or_create_owned(&labels)
        };
        Decisions { allowed: counter("allowed"), denied: counter("denied") }
    }

    pub(super) fn of_webhook(&self, name: &str) -> WebhookMetrics {
        WebhookMetrics { name: name.to_owned(), all: self.clone() }
    }
}

pub(super) struct Decisions {
    pub(super) allowed: Counter,
    pub(super) denied: Counter,
}

/// The metrics of one webhook.
pub(super) struct WebhookMetrics {
    name: String,
    all: AuthorizationMetrics,
}

impl WebhookMetrics {
    pub(super) fn record_call(&self, result: &'static str, took: Duration) {
        let labels = CallLabels { name: self.name.clone(), result };
        self.all.calls.get_or_create(&labels).inc();
        self.all.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(super) fn record_fail_open(&self, result: &'static str) {
        self.all.fail_open.get_or_create(&CallLabels { name: self.name.clone(), result }).inc();
    }

    pub(super) fn record_condition_error(&self) {
        self.all.condition_errors.get_or_create(&self.labels()).inc();
    }

    pub(super) fn record_exclusion(&self) {
        self.all.exclusions.get_or_create(&self.labels()).inc();
    }

    fn labels(&self) -> AuthorizerLabels {
        AuthorizerLabels { r#type: "Webhook", name: self.name.clone() }
    }
}

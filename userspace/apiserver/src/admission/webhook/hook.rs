//! One webhook as read from its configuration. What is absent: requests.

use std::time::Duration;

use serde_json::Value;
use skep_api::cel::RequestScope;

use crate::admission::expression::Conditions;
use crate::admission::rules::MatchRules;

const MAX_TIMEOUT_SECONDS: u64 = 30;
const DEFAULT_TIMEOUT_SECONDS: u64 = 10;

/// One webhook of a configuration.
pub(crate) struct Hook {
    pub(super) name: String,
    pub(super) client: Value,
    pub(super) version: ReviewVersion,
    pub(super) rules: MatchRules,
    pub(super) conditions: Conditions,
    pub(super) ignores_failure: bool,
    pub(super) timeout: Duration,
    pub(super) allows_dry_run: bool,
    pub(super) reinvoke_if_needed: bool,
}

/// The version of AdmissionReview that a webhook gets: the first in its list that this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReviewVersion {
    V1,
    /// Neither the kind nor the uid nor the patch's type of its answers is checked.
    V1Beta1,
}

impl ReviewVersion {
    fn of(versions: &Value) -> ReviewVersion {
        let known = versions.as_array().into_iter().flatten().filter_map(|version| match version.as_str() {
            Some("v1") => Some(ReviewVersion::V1),
            Some("v1beta1") => Some(ReviewVersion::V1Beta1),
            _ => None,
        });
        known.into_iter().next().unwrap_or(ReviewVersion::V1)
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            ReviewVersion::V1 => "admission.k8s.io/v1",
            ReviewVersion::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

impl Hook {
    /// The webhooks of a configuration.
    pub(in crate::admission) fn all_of(configuration: &Value) -> Vec<Hook> {
        configuration["webhooks"].as_array().into_iter().flatten().map(Hook::of).collect()
    }

    fn of(hook: &Value) -> Hook {
        let seconds =
            hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_TIMEOUT_SECONDS).clamp(1, MAX_TIMEOUT_SECONDS);
        Hook {
            name: hook["name"].as_str().unwrap_or_default().to_owned(),
            client: hook["clientConfig"].clone(),
            version: ReviewVersion::of(&hook["admissionReviewVersions"]),
            rules: MatchRules::of_webhook(hook),
            conditions: Conditions::of(&hook["matchConditions"], &RequestScope::default().scope()),
            ignores_failure: hook["failurePolicy"] == "Ignore",
            timeout: Duration::from_secs(seconds),
            allows_dry_run: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            reinvoke_if_needed: hook["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_have_upstreams_defaults() {
        let hook = Hook::of(&json!({"name": "a", "sideEffects": "Some"}));
        assert!(!hook.ignores_failure && !hook.allows_dry_run && !hook.reinvoke_if_needed);
        assert_eq!(hook.timeout, Duration::from_secs(10));
        assert_eq!(Hook::all_of(&json!({"webhooks": [{}, {}]})).len(), 2);
    }
}

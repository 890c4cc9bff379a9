//! `podFailurePolicy` (KEP-3329), `backoffLimitPerIndex` (KEP-3850) and `successPolicy` (KEP-3998). PURE.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::meta;

/// Failures of an index that counted, before this pod.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Failures of an index that the policy ignored, before this pod.
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What follows from one failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FailureAction {
    /// Towards the limits.
    Count,
    Ignore,
    FailIndex,
    /// With the message of the condition.
    FailJob(String),
}

/// The action of the first rule that matches; without one the failure counts.
pub(super) fn failure_action(spec: &JobSpec, pod: &Pod) -> FailureAction {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let Some(matched) = matched(rule, pod) else { continue };
        match rule.action.as_str() {
            "Ignore" => return FailureAction::Ignore,
            "FailIndex" => return FailureAction::FailIndex,
            "Count" => return FailureAction::Count,
            "FailJob" => {
                return FailureAction::FailJob(format!("{matched} matching FailJob rule at index {number}"));
            }
            _ => {}
        }
    }
    FailureAction::Count
}

/// Which part of the pod's status the rule matches, as the beginning of a message.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = format!("{}/{}", meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    if let Some(codes) = &rule.on_exit_codes {
        let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let (container, code) = containers.filter_map(|status| exit_code(status, codes)).next()?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|condition| {
        patterns.clone().any(|pattern| {
            let status = pattern.status.as_deref().unwrap_or("True");
            pattern.type_ == condition.type_ && status == condition.status
        })
    })?;
    Some(format!("Pod {name} has condition {}", found.type_))
}

/// The container's name and exit code, if it failed with a code that the rule names.
fn exit_code<'a>(
    status: &'a ContainerStatus,
    codes: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = codes.values.contains(&code);
    let named = codes.container_name.as_ref().is_none_or(|name| *name == status.name);
    let matches = match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (named && code != 0 && matches).then_some((&status.name, code))
}

/// Whether this failed pod is the last that its index may have.
pub(super) fn fails_index(spec: &JobSpec, limit: i32, pod: &Pod) -> bool {
    match failure_action(spec, pod) {
        FailureAction::FailIndex => true,
        FailureAction::Ignore => false,
        FailureAction::Count | FailureAction::FailJob(_) => failures(pod, FAILURES) >= limit,
    }
}

/// The counts for the pod that replaces a failed one: (counted, ignored).
pub(super) fn failures_after(spec: &JobSpec, failed: Option<&Pod>) -> (i32, i32) {
    let Some(pod) = failed else { return (0, 0) };
    let (counted, ignored) = (failures(pod, FAILURES), failures(pod, IGNORED_FAILURES));
    match failure_action(spec, pod) {
        FailureAction::Ignore => (counted, ignored.saturating_add(1)),
        _ => (counted.saturating_add(1), ignored),
    }
}

fn failures(pod: &Pod, annotation: &str) -> i32 {
    meta::annotation(&pod.metadata, annotation).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The message of the first rule of the success policy that the succeeded indexes meet.
pub(super) fn success_message(spec: &JobSpec, completions: u32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let mut rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    let number = rules.position(|rule| meets(rule, completions, succeeded))?;
    Some(format!("Matched rules at index {number}"))
}

fn meets(rule: &SuccessPolicyRule, completions: u32, succeeded: &Indexes) -> bool {
    let enough =
        |number: u64| rule.succeeded_count.is_some_and(|count| number >= u64::try_from(count).unwrap_or(0));
    let Some(text) = &rule.succeeded_indexes else { return enough(succeeded.total()) };
    let required = Indexes::parse(text, completions);
    let common = required.common(succeeded);
    !required.is_empty() && (common == required.total() || enough(common))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(fields: Value) -> JobSpec {
        let mut spec = json!({"template": {}});
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn failed(container: &str, code: i32, condition: &str, annotations: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "p", "annotations": annotations},
            "status": {
                "phase": "Failed",
                "conditions": [{"type": condition, "status": "True"}],
                "containerStatuses": [{
                    "name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}},
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42, 43]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
            {"action": "Count", "onExitCodes": {"operator": "In", "values": [2]}},
            {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [2]}},
        ]);
        let spec = spec(json!({"podFailurePolicy": {"rules": rules}}));
        let message = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        let cases = [
            ("main", 42, "DisruptionTarget", FailureAction::Ignore),
            ("main", 42, "Ready", FailureAction::FailJob(message.to_owned())),
            ("other", 42, "Ready", FailureAction::FailIndex),
            ("main", 2, "Ready", FailureAction::Count),
            ("main", 1, "Ready", FailureAction::Count),
            // Success is no failure, whatever the operator says.
            ("main", 0, "Ready", FailureAction::Count),
        ];
        for (container, code, condition, action) in cases {
            let pod = failed(container, code, condition, &json!({}));
            assert_eq!(failure_action(&spec, &pod), action, "{container} {code} {condition}");
        }
    }

    #[test]
    fn an_index_fails_with_its_last_counted_failure() {
        let ignoring = spec(json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}},
        ]}}));
        let pod = |code, counted: &str| {
            failed("c", code, "Ready", &json!({FAILURES: counted, IGNORED_FAILURES: "4"}))
        };
        assert!(!fails_index(&ignoring, 2, &pod(1, "1")));
        assert!(fails_index(&ignoring, 2, &pod(1, "2")));
        assert!(!fails_index(&ignoring, 2, &pod(3, "2")));
        assert_eq!(failures_after(&ignoring, Some(&pod(1, "1"))), (2, 4));
        assert_eq!(failures_after(&ignoring, Some(&pod(3, "1"))), (1, 5));
        assert_eq!(failures_after(&ignoring, Some(&pod(1, "2147483647"))), (i32::MAX, 4));
        assert_eq!(failures_after(&ignoring, None), (0, 0));
    }

    #[test]
    fn a_success_policy_is_met_by_indexes_or_by_their_number() {
        let spec = spec(json!({"successPolicy": {"rules": [
            {"succeededIndexes": "0,4-6", "succeededCount": 3},
            {"succeededIndexes": "1,2"},
            {"succeededCount": 5},
        ]}}));
        let cases = [
            ("", None),
            ("0,4", None),
            ("0,4,6", Some("Matched rules at index 0")),
            ("1-3", Some("Matched rules at index 1")),
            ("3,7-10", Some("Matched rules at index 2")),
        ];
        for (succeeded, message) in cases {
            let succeeded = Indexes::parse(succeeded, 11);
            assert_eq!(success_message(&spec, 11, &succeeded).as_deref(), message, "{succeeded}");
        }
    }
}

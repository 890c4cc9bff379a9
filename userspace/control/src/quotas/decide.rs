//! The status of a ResourceQuota from a fresh count. PURE.
//!
//! The API server charges a quota before it stores an object. A count below the charged usage may be too early to include
//! that object, so a quota that was charged just now is not lowered yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::quota::Meter;
use skep_api::resources::Resources;

/// After this time a charged object is stored, or never will be.
pub(super) const CHARGE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a namespace has of one resource.
#[derive(Clone, Debug)]
pub(super) enum Usage {
    Objects(Vec<Value>),
    Number(u64),
}

/// What is to be done about one quota.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum QuotaDecision {
    Nothing,
    /// The new status; written only if no other writer changed the quota.
    Write(Value),
    /// Count again after this time.
    Wait(Duration),
}

/// What must be counted for a quota.
pub(super) fn meters(quota: &Value) -> BTreeSet<Meter> {
    hard(quota).filter_map(Meter::for_quota_name).collect()
}

fn hard(quota: &Value) -> impl Iterator<Item = &str> {
    quota["spec"]["hard"].as_object().into_iter().flatten().map(|(name, _)| name.as_str())
}

/// Whether the status lacks a resource of the spec or has other limits.
pub(super) fn is_behind(quota: &Value) -> bool {
    let status = &quota["status"];
    Resources::of(&quota["spec"]["hard"]) != Resources::of(&status["hard"])
        || hard(quota).any(|name| status["used"].get(name).is_none())
}

/// `age`: for how long the quota is known to have its present version.
pub(super) fn decide(
    quota: &Value,
    usage: &BTreeMap<Meter, Usage>,
    age: Duration,
    now: Timestamp,
) -> QuotaDecision {
    let used = used(quota, usage, now);
    let before = Resources::of(&quota["status"]["used"]);
    if !is_behind(quota) && used == before {
        return QuotaDecision::Nothing;
    }
    let lowers = before.0.iter().any(|(name, amount)| used.get(name).is_some_and(|now| now < *amount));
    if lowers && age < CHARGE_TIMEOUT {
        return QuotaDecision::Wait(CHARGE_TIMEOUT.saturating_sub(age));
    }
    QuotaDecision::Write(json!({"hard": quota["spec"]["hard"], "used": used.to_value()}))
}

/// The usage of every resource that the quota limits, also of those without objects.
fn used(quota: &Value, usage: &BTreeMap<Meter, Usage>, now: Timestamp) -> Resources {
    let mut used = Resources::default();
    hard(quota).for_each(|name| used.set(name, Default::default()));
    for (meter, usage) in usage {
        let share = match usage {
            Usage::Objects(objects) => meter.used(quota, objects.iter(), now),
            Usage::Number(count) => meter.used_by_count(quota, *count),
        };
        used.add(&share.masked(|name| meter.counts(name) && quota["spec"]["hard"].get(name).is_some()));
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn quota(hard: Value, status: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": status})
    }

    fn pods(count: usize) -> Usage {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "100m"}}}]}});
        Usage::Objects(vec![pod; count])
    }

    fn decided(quota: &Value, found: &[(&str, Usage)], age: Duration) -> QuotaDecision {
        let found =
            found.iter().map(|(name, found)| (Meter::for_quota_name(name).unwrap(), found.clone())).collect();
        decide(quota, &found, age, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_new_quota_gets_a_status_for_all_it_limits() {
        let hard = json!({"pods": "5", "requests.cpu": "1", "count/deployments.apps": "3", "secrets": "9", "x.com/y": "1"});
        let new = quota(hard.clone(), json!({}));
        let found =
            [("pods", pods(2)), ("count/deployments.apps", Usage::Number(2)), ("secrets", Usage::Number(4))];
        let wanted = json!({
            "hard": hard,
            "used": {"pods": "2", "requests.cpu": "200m", "count/deployments.apps": "2", "secrets": "4", "x.com/y": "0"},
        });
        assert_eq!(decided(&new, &found, Duration::ZERO), QuotaDecision::Write(wanted));
        assert_eq!(meters(&new).len(), 3);
    }

    #[test]
    fn a_right_status_stays_and_a_fresh_one_is_not_lowered() {
        let hard = json!({"pods": "5"});
        let charged = quota(hard.clone(), json!({"hard": hard, "used": {"pods": "3"}}));
        assert_eq!(decided(&charged, &[("pods", pods(3))], Duration::ZERO), QuotaDecision::Nothing);
        let fresh = Duration::from_millis(100);
        assert_eq!(
            decided(&charged, &[("pods", pods(2))], fresh),
            QuotaDecision::Wait(CHARGE_TIMEOUT - fresh)
        );
        let lowered = json!({"hard": hard, "used": {"pods": "2"}});
        assert_eq!(decided(&charged, &[("pods", pods(2))], LONG), QuotaDecision::Write(lowered));
        let raised = json!({"hard": hard, "used": {"pods": "4"}});
        assert_eq!(decided(&charged, &[("pods", pods(4))], fresh), QuotaDecision::Write(raised));
    }

    #[test]
    fn a_removed_limit_is_removed_from_the_status() {
        let changed = quota(
            json!({"pods": "5"}),
            json!({"hard": {"pods": "5", "secrets": "1"}, "used": {"pods": "1", "secrets": "1"}}),
        );
        assert!(is_behind(&changed));
        let wanted = json!({"hard": {"pods": "5"}, "used": {"pods": "1"}});
        assert_eq!(decided(&changed, &[("pods", pods(1))], Duration::ZERO), QuotaDecision::Write(wanted));
    }
}

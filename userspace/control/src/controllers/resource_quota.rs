//! ResourceQuotas: what is used of each, counted anew. PURE.
//!
//! The API server charges a quota before it stores an object. A count that is lower than what was charged may only be too
//! early to see that object, so a quota that was charged just now is not lowered yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::{quota::Meter, resources::Resources};

/// After this time an object that was charged for is there, or will not be.
pub const QUIET: Duration = Duration::from_millis(500);

/// What is there of a resource in the quota's namespace.
#[derive(Clone, Debug)]
pub enum Found {
    Objects(Vec<Value>),
    Number(u64),
}

/// What is to be done about one quota.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Nothing,
    /// Its status, to be written if nobody else writes it.
    Write(Value),
    /// Look again then.
    Wait(Duration),
}

/// What must be counted for a quota.
pub fn meters(quota: &Value) -> BTreeSet<Meter> {
    hard(quota).filter_map(Meter::behind).collect()
}

fn hard(quota: &Value) -> impl Iterator<Item = &str> {
    quota["spec"]["hard"].as_object().into_iter().flatten().map(|(name, _)| name.as_str())
}

/// Whether the status cannot be what the specification asks for.
pub fn is_behind(quota: &Value) -> bool {
    let status = &quota["status"];
    Resources::of(&quota["spec"]["hard"]) != Resources::of(&status["hard"])
        || hard(quota).any(|name| status["used"].get(name).is_none())
}

/// `age`: for how long the quota is known to be as it is.
pub fn decide(quota: &Value, found: &BTreeMap<Meter, Found>, age: Duration, now: Timestamp) -> Step {
    let used = used(quota, found, now);
    let before = Resources::of(&quota["status"]["used"]);
    if !is_behind(quota) && used == before {
        return Step::Nothing;
    }
    let lowers = before.0.iter().any(|(name, amount)| used.get(name).is_some_and(|now| now < *amount));
    if lowers && age < QUIET {
        return Step::Wait(QUIET.saturating_sub(age));
    }
    Step::Write(json!({"hard": quota["spec"]["hard"], "used": used.to_value()}))
}

/// Every resource that the quota limits, even if nothing counts for it.
fn used(quota: &Value, found: &BTreeMap<Meter, Found>, now: Timestamp) -> Resources {
    let mut used = Resources::default();
    hard(quota).for_each(|name| used.set(name, Default::default()));
    for (meter, found) in found {
        let share = match found {
            Found::Objects(objects) => meter.used(quota, objects.iter(), now),
            Found::Number(count) => meter.used_by_number(quota, *count),
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

    fn pods(count: usize) -> Found {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "100m"}}}]}});
        Found::Objects(vec![pod; count])
    }

    fn decided(quota: &Value, found: &[(&str, Found)], age: Duration) -> Step {
        let found = found.iter().map(|(name, found)| (Meter::behind(name).unwrap(), found.clone())).collect();
        decide(quota, &found, age, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_new_quota_gets_a_status_for_all_it_limits() {
        let hard = json!({"pods": "5", "requests.cpu": "1", "count/deployments.apps": "3", "secrets": "9", "x.com/y": "1"});
        let new = quota(hard.clone(), json!({}));
        let found =
            [("pods", pods(2)), ("count/deployments.apps", Found::Number(2)), ("secrets", Found::Number(4))];
        let wanted = json!({
            "hard": hard,
            "used": {"pods": "2", "requests.cpu": "200m", "count/deployments.apps": "2", "secrets": "4", "x.com/y": "0"},
        });
        assert_eq!(decided(&new, &found, Duration::ZERO), Step::Write(wanted));
        assert_eq!(meters(&new).len(), 3);
    }

    #[test]
    fn what_is_right_is_left_alone_and_what_is_fresh_is_not_lowered() {
        let hard = json!({"pods": "5"});
        let charged = quota(hard.clone(), json!({"hard": hard, "used": {"pods": "3"}}));
        assert_eq!(decided(&charged, &[("pods", pods(3))], Duration::ZERO), Step::Nothing);
        let fresh = Duration::from_millis(100);
        assert_eq!(decided(&charged, &[("pods", pods(2))], fresh), Step::Wait(QUIET - fresh));
        let lowered = json!({"hard": hard, "used": {"pods": "2"}});
        assert_eq!(decided(&charged, &[("pods", pods(2))], LONG), Step::Write(lowered));
        let raised = json!({"hard": hard, "used": {"pods": "4"}});
        assert_eq!(decided(&charged, &[("pods", pods(4))], fresh), Step::Write(raised));
    }

    #[test]
    fn a_limit_that_went_away_goes_from_the_status() {
        let changed = quota(
            json!({"pods": "5"}),
            json!({"hard": {"pods": "5", "secrets": "1"}, "used": {"pods": "1", "secrets": "1"}}),
        );
        assert!(is_behind(&changed));
        let wanted = json!({"hard": {"pods": "5"}, "used": {"pods": "1"}});
        assert_eq!(decided(&changed, &[("pods", pods(1))], Duration::ZERO), Step::Write(wanted));
    }
}

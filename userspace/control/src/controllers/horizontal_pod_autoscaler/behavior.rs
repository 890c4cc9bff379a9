//! How fast replicas may change: recommendations of the past, and rules for each direction (KEP-853). PURE.
//!
//! In: a wanted number of replicas, what was recommended and done before, a time on the steady clock. Out: the number that
//! is allowed now, with the reasons for the conditions.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use skep_api::time;

/// How long a lower recommendation waits, unless the object says otherwise.
const DOWNSCALE_STABILIZATION: Duration = Duration::from_secs(300);

/// What is remembered of an autoscaler between two decisions. Times are of the steady clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    recommendations: Vec<Recorded>,
    ups: Vec<Recorded>,
    downs: Vec<Recorded>,
}

/// A recommendation, or a number of replicas that were added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    replicas: i32,
    at: Timestamp,
}

/// The numbers of a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) current: i32,
    pub(crate) min: i32,
    pub(crate) max: i32,
}

/// The allowed number, and reason and message of the conditions AbleToScale and ScalingLimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) replicas: i32,
    pub(crate) able: Why,
    pub(crate) limited: Option<Why>,
}

pub(crate) type Why = (&'static str, &'static str);

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
pub(crate) const WITHIN_RANGE: Why =
    ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl History {
    /// The number of replicas at the first look counts as recommended.
    pub(crate) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push(Recorded { replicas: current, at: now });
        }
    }

    /// What of the wanted number is allowed now. The wanted number is remembered.
    pub(crate) fn allow(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        bounds: Bounds,
        wanted: i32,
        now: Timestamp,
    ) -> Allowed {
        match behavior {
            None => self.allow_by_default(bounds, wanted, now),
            Some(behavior) => self.allow_by_rules(behavior, bounds, wanted, now),
        }
    }

    fn allow_by_default(&mut self, bounds: Bounds, wanted: i32, now: Timestamp) -> Allowed {
        let cutoff = time::before(now, DOWNSCALE_STABILIZATION);
        let recent = self.recommendations.iter().filter(|recorded| recorded.at >= cutoff);
        let stabilized = recent.map(|recorded| recorded.replicas).fold(wanted, i32::max);
        self.recommend(wanted, now, |recorded| recorded.at < cutoff);
        let able = if stabilized == wanted { READY } else { DOWN_STABILIZED };
        // Doubled, but at least four.
        let fastest = bounds.current.saturating_mul(2).max(4);
        let (most, why) = if bounds.max > fastest { (fastest, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
        let limited = match stabilized {
            wanted if wanted < bounds.min => Some((bounds.min, TOO_FEW)),
            wanted if wanted > most => Some((most, why)),
            _ => None,
        };
        Allowed {
            replicas: limited.map_or(stabilized, |(replicas, _)| replicas),
            able,
            limited: limited.map(|(_, why)| why),
        }
    }

    fn allow_by_rules(
        &mut self,
        behavior: &HorizontalPodAutoscalerBehavior,
        bounds: Bounds,
        wanted: i32,
        now: Timestamp,
    ) -> Allowed {
        let up = Rules::of(behavior.scale_up.as_ref(), Duration::ZERO);
        let down = Rules::of(behavior.scale_down.as_ref(), DOWNSCALE_STABILIZATION);
        let stabilized = self.stabilize(up.window, down.window, bounds.current, wanted, now);
        let able = match stabilized == wanted {
            true => READY,
            false if wanted >= bounds.current => UP_STABILIZED,
            false => DOWN_STABILIZED,
        };
        let (replicas, limited) = self.limit(&up, &down, bounds, stabilized, now);
        Allowed { replicas, able, limited }
    }

    /// The current number, as far as recent recommendations keep it.
    fn stabilize(&mut self, up: Duration, down: Duration, current: i32, wanted: i32, now: Timestamp) -> i32 {
        let (up, down) = (time::before(now, up), time::before(now, down));
        let (mut lowest, mut highest) = (wanted, wanted);
        for recorded in &self.recommendations {
            if recorded.at > up {
                lowest = lowest.min(recorded.replicas);
            }
            if recorded.at > down {
                highest = highest.max(recorded.replicas);
            }
        }
        self.recommend(wanted, now, |recorded| recorded.at < up && recorded.at < down);
        current.max(lowest).min(highest)
    }

    /// Remembers a recommendation, and forgets those that no window reaches.
    fn recommend(&mut self, replicas: i32, now: Timestamp, is_old: impl Fn(&Recorded) -> bool) {
        self.recommendations.retain(|recorded| !is_old(recorded));
        self.recommendations.push(Recorded { replicas, at: now });
    }

    fn limit(
        &self,
        up: &Rules<'_>,
        down: &Rules<'_>,
        bounds: Bounds,
        wanted: i32,
        now: Timestamp,
    ) -> (i32, Option<Why>) {
        let Bounds { current, min, max } = bounds;
        if wanted > current {
            let fastest = self.fastest(up, current, now, true).max(current);
            let (most, why) = if max > fastest { (fastest, UP_LIMIT) } else { (max, TOO_MANY) };
            return if wanted > most { (most, Some(why)) } else { (wanted, None) };
        }
        if wanted < current {
            let fastest = self.fastest(down, current, now, false).min(current);
            let (least, why) = if min < fastest { (fastest, DOWN_LIMIT) } else { (min, TOO_FEW) };
            return if wanted < least { (least, Some(why)) } else { (wanted, None) };
        }
        (wanted, None)
    }

    /// The number of replicas that a direction's policies lead to at most.
    fn fastest(&self, rules: &Rules<'_>, current: i32, now: Timestamp, up: bool) -> i32 {
        if rules.select == "Disabled" {
            return current;
        }
        let by_policy = |policy: &HPAScalingPolicy| {
            let since = time::before(now, time::seconds_of(policy.period_seconds));
            let changed = |events: &[Recorded]| {
                let recent = events.iter().filter(|event| event.at > since);
                recent.fold(0i32, |sum, event| sum.saturating_add(event.replicas))
            };
            let start = current.saturating_sub(changed(&self.ups)).saturating_add(changed(&self.downs));
            let percent = f64::from(policy.value) / 100.0;
            match (policy.type_.as_str(), up) {
                ("Pods", true) => start.saturating_add(policy.value),
                ("Pods", false) => start.saturating_sub(policy.value),
                // Rounded up: a small change must not stay none for ever.
                (_, true) => (f64::from(start) * (1.0 + percent)).ceil() as i32,
                (_, false) => (f64::from(start) * (1.0 - percent)) as i32,
            }
        };
        let limits = rules.policies.iter().map(by_policy);
        // The policy of the least change is the lowest on the way up and the highest on the way down.
        let limit = if (rules.select == "Min") == up { limits.min() } else { limits.max() };
        limit.unwrap_or(current)
    }

    /// Remembers a change that was made.
    pub(crate) fn scaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let (rules, events) = match to > from {
            true => (behavior.scale_up.as_ref(), &mut self.ups),
            false => (behavior.scale_down.as_ref(), &mut self.downs),
        };
        let policies = rules.and_then(|rules| rules.policies.as_deref()).unwrap_or_default();
        let longest = policies.iter().map(|policy| policy.period_seconds).max().unwrap_or(0);
        let cutoff = time::before(now, time::seconds_of(longest));
        events.retain(|event| event.at >= cutoff);
        let replicas = i32::try_from(to.abs_diff(from)).unwrap_or(i32::MAX);
        events.push(Recorded { replicas, at: now });
    }
}

/// The rules of one direction.
struct Rules<'a> {
    window: Duration,
    policies: &'a [HPAScalingPolicy],
    select: &'a str,
}

impl<'a> Rules<'a> {
    fn of(rules: Option<&'a HPAScalingRules>, window: Duration) -> Rules<'a> {
        let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
        Rules {
            window: seconds.map_or(window, time::seconds_of),
            policies: rules.and_then(|rules| rules.policies.as_deref()).unwrap_or_default(),
            select: rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max"),
        }
    }
}

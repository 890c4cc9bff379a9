//! Whether an ended container restarts, and after which delay.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use super::later::later;
use super::model::Class;

const MIN_DELAY: SignedDuration = SignedDuration::from_secs(10);
const MAX_DELAY: SignedDuration = SignedDuration::from_secs(300);
/// A container that has run for this long since its last restart begins again with [`MIN_DELAY`].
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// The restart delay of one container name. The first restart is immediate, then 10 s doubling to 300 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub delay: SignedDuration,
    /// When it was last restarted.
    pub last: Timestamp,
    /// An event about the current wait has been recorded.
    pub announced: bool,
}

impl Backoff {
    /// The state after a restart at `now`.
    pub fn next(current: Option<Backoff>, now: Timestamp) -> Backoff {
        let delay = match current {
            Some(b) if now.duration_since(b.last) <= RESET_AFTER => (b.delay * 2).min(MAX_DELAY),
            _ => MIN_DELAY,
        };
        Backoff { delay, last: now, announced: false }
    }

    /// When a container that ended at `finished` may restart; `None`: now.
    pub fn wait(current: Option<&Backoff>, finished: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let backoff = current?;
        if finished.duration_since(backoff.last) > RESET_AFTER {
            return None;
        }
        let until = later(finished, backoff.delay);
        (until > now).then_some(until)
    }
}

/// The delay before the next retry, given the previous delay.
pub(super) fn retry_delay(previous: Option<SignedDuration>) -> SignedDuration {
    previous.map_or(MIN_DELAY, |delay| (delay * 2).min(MAX_DELAY))
}

/// Whether a container that ended with `code` restarts.
pub(super) fn should_restart(pod: &Pod, class: Class, container: &Container, code: i32) -> bool {
    match class {
        Class::Ephemeral => return false,
        Class::Sidecar => return true,
        Class::Init | Class::Main => {}
    }
    if container.restart_policy.is_some()
        && container.restart_policy_rules.iter().flatten().any(|rule| matches(rule, code))
    {
        return true;
    }
    let policy = container
        .restart_policy
        .as_deref()
        .or_else(|| pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()))
        .unwrap_or("Always");
    match (policy, class) {
        ("Never", _) => false,
        // An init container that succeeded is done, whatever the policy.
        ("Always", Class::Main) => true,
        _ => code != 0,
    }
}

fn matches(rule: &ContainerRestartRule, code: i32) -> bool {
    if rule.action != "Restart" {
        return false;
    }
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|value| *value == code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    #[test]
    fn delays_double_to_five_minutes() {
        let mut backoff = None;
        let mut delays = Vec::new();
        for step in 0..8 {
            backoff = Some(Backoff::next(backoff, at(step * 300)));
            delays.extend(backoff.map(|b| b.delay.as_secs()));
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_forget_the_delay() {
        let long = Backoff { delay: MAX_DELAY, last: at(0), announced: true };
        assert_eq!(Backoff::wait(Some(&long), at(601), at(602)), None);
        assert_eq!(Backoff::next(Some(long), at(602)).delay, MIN_DELAY);
        assert_eq!(Backoff::wait(Some(&long), at(599), at(602)), Some(at(899)));
    }

    #[test]
    fn first_death_restarts_at_once() {
        assert_eq!(Backoff::wait(None, at(1), at(1)), None);
    }
}

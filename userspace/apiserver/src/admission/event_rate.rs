//! EventRateLimit: events of one namespace, and of one user, are admitted at a limited rate.

use std::collections::HashMap;
use std::time::Instant;

use skep_api::Status;

use super::optional::OptionalPlugin;
use super::request::{Operation, Request};
use crate::lock::Lock;

/// Events in a second, and in a burst. The rates of upstream's example.
const OF_NAMESPACE: (f64, f64) = (50.0, 100.0);
const OF_USER: (f64, f64) = (10.0, 50.0);
/// Namespaces, and users, whose rate is known; with more, those that were not limited are forgotten.
const MAX_KNOWN: usize = 4_096;
const RETRY_AFTER_SECONDS: u32 = 1;

/// The rates of all namespaces and users.
#[derive(Default)]
pub(super) struct EventRates {
    namespaces: Lock<HashMap<String, Bucket>>,
    users: Lock<HashMap<String, Bucket>>,
}

/// Tokens that refill with time; each event takes one.
#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

pub(super) fn admit(request: &Request<'_>) -> Result<(), Status> {
    let is_event = request.is_resource("", "events") || request.is_resource("events.k8s.io", "events");
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !is_event || !writes || request.dry_run || !request.admission.runs(OptionalPlugin::EventRateLimit) {
        return Ok(());
    }
    let rates = &request.admission.event_rates;
    let now = Instant::now();
    for (all, kind, key, limit) in [
        (&rates.namespaces, "Namespace", request.namespace(), OF_NAMESPACE),
        (&rates.users, "User", request.call.identity.user.as_str(), OF_USER),
    ] {
        if !take(&mut all.lock(), key, limit, now) {
            let why = format!("limit reached on type {kind} for key {key}");
            return Err(Status::too_many_requests(why, RETRY_AFTER_SECONDS));
        }
    }
    Ok(())
}

fn take(all: &mut HashMap<String, Bucket>, key: &str, (rate, burst): (f64, f64), now: Instant) -> bool {
    let refilled = |bucket: &Bucket| {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        passed.mul_add(rate, bucket.tokens).min(burst)
    };
    if all.len() >= MAX_KNOWN && !all.contains_key(key) {
        all.retain(|_, bucket| refilled(bucket) < burst);
    }
    let tokens = all.get(key).map_or(burst, refilled);
    let allowed = tokens >= 1.0;
    all.insert(key.to_owned(), Bucket { tokens: if allowed { tokens - 1.0 } else { tokens }, at: now });
    allowed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let (mut all, start) = (HashMap::new(), Instant::now());
        let mut taken = |key: &str, after: Duration, tries: usize| {
            (0..tries).filter(|_| take(&mut all, key, (10.0, 50.0), start + after)).count()
        };
        assert_eq!(taken("a", Duration::ZERO, 100), 50);
        assert_eq!(taken("a", Duration::from_secs(1), 100), 10);
        assert_eq!(taken("b", Duration::from_secs(1), 100), 50);
        assert_eq!(taken("a", Duration::from_secs(100), 100), 50);
    }
}

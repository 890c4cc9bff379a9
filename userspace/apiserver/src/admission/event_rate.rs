//! EventRateLimit: events of one namespace, and of one user, are admitted at a limited rate.

use std::time::Instant;

use skep_api::Status;

use super::event_rates::take;
use super::optional::OptionalPlugin;
use super::request::{Operation, Request};

/// Events in a second, and in a burst. The rates of upstream's example.
const OF_NAMESPACE: (f64, f64) = (50.0, 100.0);
const OF_USER: (f64, f64) = (10.0, 50.0);
const RETRY_AFTER_SECONDS: u32 = 1;

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

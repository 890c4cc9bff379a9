//! Stops one container: preStop, SIGTERM, SIGKILL.

use std::time::{Duration, Instant};

use super::job::{Job, of_cri};
use crate::plan::{Outcome, specs};
use crate::prober::{self, Target};

/// preStop, SIGTERM, SIGKILL, all within `grace`.
pub(super) async fn kill(
    job: &Job,
    name: &str,
    id: &str,
    grace: Duration,
    pre_stop: bool,
    message: &str,
) -> Outcome {
    /// The time for SIGTERM after the hook has used up the grace period.
    const MIN_GRACE_AFTER_HOOK: Duration = Duration::from_secs(2);
    let context = &job.context;
    context.events.pod(&job.pod, Some(name), false, "Killing", message);
    let began = Instant::now();
    let all = specs(&job.pod);
    let container = all.iter().find(|s| s.container.name == name).map(|s| &s.container);
    let hook = container.and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
    if let (true, Some(container), Some(handler)) = (pre_stop, container, hook) {
        let target = Target { container, id, ip: job.ips.first().copied() };
        if let Err(error) = prober::hook(&context.cri, handler, &target, grace).await {
            tracing::info!(container = name, %error, "preStop hook failed");
            context.events.pod(&job.pod, Some(name), true, "FailedPreStopHook", "PreStopHook failed");
        }
    }
    let left = grace.saturating_sub(began.elapsed());
    let left = if grace.is_zero() { Duration::ZERO } else { left.max(MIN_GRACE_AFTER_HOOK) };
    of_cri(context.cri.stop_container(id, left).await)
}

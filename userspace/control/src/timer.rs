//! One-shot timers on the steady clock.

use std::time::Duration;

use jiff::Timestamp;
use skep_api::time;

use crate::clock;

/// Sleeps to a time; for ever if there is none.
pub(crate) async fn sleep_until(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    let wait = time::elapsed(clock::steady(), at);
    // Timers count in milliseconds: one that fires just before the time finds nothing due.
    tokio::time::sleep(wait.saturating_add(Duration::from_millis(1))).await;
}

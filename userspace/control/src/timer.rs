//! One-shot timers against wall-clock times.

use std::time::Duration;

use jiff::Timestamp;

/// Sleeps to a time; for ever if there is none.
pub(crate) async fn sleep_until(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    let wait = at.duration_since(Timestamp::now());
    let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
    // Timers count in milliseconds: one that fires just before the time finds nothing due.
    tokio::time::sleep(wait + Duration::from_millis(1)).await;
}

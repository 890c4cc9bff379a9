//! Parts fail alone: each runs in a task of its own, and starts again after it ended or panicked.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::guard::caught_async;
use crate::health::{Counter, Health};

/// Pauses before a part starts again: the first one, doubling to the last one.
const RESTART_PAUSES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// The parts of one leadership. Dropping it ends them.
pub(crate) struct Supervisor {
    health: Arc<Health>,
    parts: JoinSet<()>,
}

impl Supervisor {
    pub(crate) fn new(health: Arc<Health>) -> Self {
        Supervisor { health, parts: JoinSet::new() }
    }

    /// Runs a part until the supervisor is dropped; `start` makes its future, again each time that it ended.
    pub(crate) fn run<F>(&mut self, part: &'static str, start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.parts.spawn(keep(part, self.health.clone(), RESTART_PAUSES, start));
    }

    /// Waits for ever: parts do not end.
    pub(crate) async fn wait(&mut self) {
        while self.parts.join_next().await.is_some() {}
    }
}

async fn keep<F: Future<Output = ()>>(
    part: &'static str,
    health: Arc<Health>,
    pauses: RangeInclusive<Duration>,
    mut start: impl FnMut() -> F,
) {
    let mut pause = *pauses.start();
    loop {
        let started = Instant::now();
        match caught_async(async { start().await }).await {
            Ok(()) => tracing::error!(part, ?pause, "part ended; it starts again"),
            Err(error) => tracing::error!(part, %error, ?pause, "part failed; it starts again"),
        }
        health.count(Counter::Restarts, part);
        tokio::time::sleep(pause).await;
        // A part that has worked for a while starts again quickly.
        let lasted = started.elapsed() > *pauses.end() * 2;
        pause = if lasted { *pauses.start() } else { (pause * 2).min(*pauses.end()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_starts_again_and_the_others_go_on() {
        let health = Arc::new(Health::default());
        let starts = Arc::new(AtomicUsize::new(0));
        let (count, pauses) = (starts.clone(), Duration::from_millis(1)..=Duration::from_millis(2));
        let bad = tokio::spawn(keep("bad", health.clone(), pauses, move || {
            let count = count.clone();
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                panic!("injected");
            }
        }));
        let mut good = Supervisor::new(health.clone());
        let (sender, mut ticks) = tokio::sync::mpsc::channel(1);
        good.run("good", move || {
            let sender = sender.clone();
            async move { while sender.send(()).await.is_ok() {} }
        });
        while starts.load(Ordering::Relaxed) < 5 {
            ticks.recv().await.unwrap();
        }
        assert!(health.metrics().contains("skep_part_restarts_total{part=\"bad\"}"));
        assert!(!health.metrics().contains("good"));
        bad.abort();
        drop(good);
        while ticks.recv().await.is_some() {}
    }
}

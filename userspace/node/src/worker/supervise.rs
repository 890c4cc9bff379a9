//! Keeps a pod's worker alive.
//!
//! In: the pod, the agent's messages. Out: one worker at a time. A worker that panics is counted, reported as an Event and
//! replaced after a delay; the new one observes the pod in the runtime again. When a worker has ended, `forget` receives
//! the pod's uid.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Handle, Message, Worker};
use crate::context::NodeContext;
use crate::names;
use crate::objects::ObjectKey;

const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(300);

/// What outlives a worker: the API object as it was last received, and whether it is gone.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) pod: Arc<Pod>,
    pub(super) gone: bool,
}

/// State that a pod's workers hand on, and that the agent reads.
#[derive(Clone)]
pub(super) struct Shared {
    known: Arc<Mutex<Known>>,
    /// The objects that the pod mounts.
    pub(super) interest: Arc<Mutex<BTreeSet<ObjectKey>>>,
}

impl Shared {
    pub(super) fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Starts the pod's worker. `forget` receives the uid when nothing of the pod is left.
pub(crate) fn spawn(
    context: Arc<NodeContext>,
    pod: Arc<Pod>,
    forget: mpsc::UnboundedSender<String>,
    stop: CancellationToken,
) -> Handle {
    let (messages, inbox) = mpsc::unbounded_channel();
    let shared = Shared { known: Arc::new(Mutex::new(Known { pod, gone: false })), interest: Arc::default() };
    let interest = shared.interest.clone();
    tokio::spawn(async move {
        let (_, _, uid) = names::of(&shared.known().pod);
        if supervise(&context, &shared, inbox, &stop).await {
            let _ = forget.send(uid);
        }
    });
    Handle { messages, interest }
}

/// Returns true when the pod is over, false when the agent stops.
async fn supervise(
    context: &Arc<NodeContext>,
    shared: &Shared,
    inbox: mpsc::UnboundedReceiver<Message>,
    stop: &CancellationToken,
) -> bool {
    let panicked = |panic: &(dyn Any + Send)| {
        report(context, &shared.known().pod, "the pod's worker", panic);
    };
    let over = keep_alive(inbox, stop, panicked, |inbox| {
        let worker = Worker::new(context.clone(), shared.clone());
        worker.run(inbox, stop.clone()).boxed()
    });
    over.await.unwrap_or(false)
}

/// Runs what `start` makes until it ends by itself; after a panic, makes another. `None` when `stop` comes first.
async fn keep_alive<I, T>(
    mut inbox: I,
    stop: &CancellationToken,
    mut panicked: impl FnMut(&(dyn Any + Send)),
    mut start: impl for<'a> FnMut(&'a mut I) -> BoxFuture<'a, T>,
) -> Option<T> {
    let mut delay = MIN_RESTART_DELAY;
    loop {
        let began = Instant::now();
        // A worker owns its state and its tasks: both end with it. The inbox holds whole messages.
        match AssertUnwindSafe(start(&mut inbox)).catch_unwind().await {
            Ok(ended) => return Some(ended),
            Err(panic) => panicked(&*panic),
        }
        if began.elapsed() > MAX_RESTART_DELAY {
            delay = MIN_RESTART_DELAY;
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(MAX_RESTART_DELAY);
    }
}

/// Counts a panic of `part`, logs it, and records an Event at the pod. Returns its text.
pub(super) fn report(context: &NodeContext, pod: &Pod, part: &str, panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let message = format!("{part} panicked: {text}");
    context.count_panic();
    tracing::error!(pod = crate::plan::status::pod_text(pod), part, text, "pod worker panicked");
    context.events.pod(pod, None, true, "FailedSync", format!("error syncing pod: {message}"));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_is_replaced_and_loses_no_message() {
        let (messages, inbox) = mpsc::unbounded_channel();
        for message in ["bad", "good", "last"] {
            messages.send(message).expect("sent");
        }
        let mut panics = 0;
        let stop = CancellationToken::new();
        let worker = keep_alive(
            inbox,
            &stop,
            |_| panics += 1,
            |inbox| {
                async move {
                    let mut seen = Vec::new();
                    while let Some(message) = inbox.recv().await {
                        assert_ne!(message, "bad");
                        seen.push(message);
                        if message == "last" {
                            break;
                        }
                    }
                    seen
                }
                .boxed()
            },
        );
        let ended = worker.await;
        assert_eq!((ended, panics), (Some(vec!["good", "last"]), 1));
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait_for_the_next_worker() {
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = keep_alive((), &stop, |_| {}, |()| async { panic!("always") }.boxed());
        assert_eq!(ended.await, None::<()>);
    }
}

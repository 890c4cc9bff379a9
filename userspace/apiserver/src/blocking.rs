//! Work that may take a second without waiting for I/O.

use futures::FutureExt as _;
use skep_api::custom::definition::is_definition;
use skep_api::{Errors, Kind};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// Runs `work` on this thread; the runtime moves other tasks to other threads meanwhile.
pub(crate) fn run_blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Waits on this thread for work that waits for I/O; the runtime moves other tasks to other threads meanwhile. `None` if it is not
/// done at once on a runtime of one thread, which could not drive the I/O.
pub(crate) fn wait_for<T>(work: impl Future<Output = T>) -> Option<T> {
    let handle = Handle::current();
    match handle.runtime_flavor() {
        RuntimeFlavor::MultiThread => {
            let mut work = std::pin::pin!(work);
            match work.as_mut().now_or_never() {
                Some(done) => Some(done),
                None => Some(tokio::task::block_in_place(|| handle.block_on(work))),
            }
        }
        _ => work.now_or_never(),
    }
}

/// Bytes of a body or an object from which on the work on it is no work for a serving thread: about a millisecond.
const LARGE_BYTES: usize = 64 << 10;
/// Requests with large bodies or objects that are worked on at once; the others wait. Each has a thread of its own.
const MAX_LARGE: usize = 8;

/// Bounds the work on large bodies and objects.
pub(crate) struct LargeWork(Semaphore);

impl Default for LargeWork {
    fn default() -> LargeWork {
        LargeWork(Semaphore::new(MAX_LARGE))
    }
}

impl LargeWork {
    /// Drives `work` to its end: here if it is about few bytes, else on a thread that serves nothing else meanwhile.
    pub(crate) async fn run<T>(&self, bytes: usize, work: impl Future<Output = T>) -> T {
        let handle = Handle::current();
        if bytes < LARGE_BYTES || handle.runtime_flavor() != RuntimeFlavor::MultiThread {
            return work.await;
        }
        // The semaphore is never closed.
        let _permit = self.0.acquire().await;
        tokio::task::block_in_place(|| handle.block_on(work))
    }
}

/// Validates an object. The rules of a custom resource may take a second, and so may a CustomResourceDefinition.
pub(crate) fn validate_maybe_slow(kind: &Kind, validate: impl FnOnce() -> Errors) -> Errors {
    let slow =
        is_definition(kind) || kind.custom.as_ref().is_some_and(|custom| custom.version.schema().has_rules());
    if slow { run_blocking(validate) } else { validate() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work within work moves to no third thread, and both end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn large_work_leaves_the_serving_thread_and_ends() {
        let (large, (sender, receiver)) = (LargeWork::default(), tokio::sync::oneshot::channel());
        tokio::spawn(async move { sender.send(run_blocking(|| 1)) });
        let done = large.run(LARGE_BYTES, async { run_blocking(|| 2) + receiver.await.unwrap_or(0) }).await;
        assert_eq!(done, 3);
        assert_eq!(large.run(0, async { 4 }).await, 4);
    }
}

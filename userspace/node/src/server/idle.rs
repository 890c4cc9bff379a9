//! Closes streams that carry nothing.
//!
//! In: the connection to the runtime, through which all bytes of an exec, attach or port-forward pass in both directions.
//! Out: the same connection, and a future that ends when no byte has passed for the time-out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A connection that notes when bytes pass.
pub(super) struct Watched<S> {
    inner: S,
    activity: Activity,
}

/// When a byte last passed.
#[derive(Clone)]
pub(super) struct Activity {
    began: Instant,
    /// Milliseconds since `began`.
    last: Arc<AtomicU64>,
}

/// The connection, watched, and its activity.
pub(super) fn watch<S>(inner: S) -> (Watched<S>, Activity) {
    let activity = Activity { began: Instant::now(), last: Arc::default() };
    (Watched { inner, activity: activity.clone() }, activity)
}

impl Activity {
    fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Returns when nothing has passed for `timeout`.
    pub(super) async fn idle(&self, timeout: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let left = (last + timeout).saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if polled.is_ready() {
            self.activity.note();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if polled.is_ready() {
            self.activity.note();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_stream_is_idle_after_its_last_byte() {
        let (_far, near) = tokio::io::duplex(64);
        let (mut near, activity) = watch(near);
        let began = Instant::now();
        let writes = async {
            let mut last = began;
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                last = Instant::now();
                near.write_all(b"x").await.expect("written");
            }
            last
        };
        let timeout = Duration::from_millis(200);
        let (last, ()) = tokio::join!(writes, activity.idle(timeout));
        // The clock of the activity counts whole milliseconds.
        assert!(last.elapsed() + Duration::from_millis(2) >= timeout, "{:?}", last.elapsed());
    }
}

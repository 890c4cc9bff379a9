//! Joins many small writes into few large ones.
//!
//! hyper flushes after every HTTP/2 data frame that is not tiny. With TLS underneath, each event of each watch would be a
//! record and a system call of its own. Here flushes wait until the connection has been polled to the end.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::lock::Lock;

/// The plain text of one TLS record (RFC 8446, 5.1).
const MAX_BUFFERED_BYTES: usize = 16 << 10;

/// A stream whose flushes are deferred. Clones share the stream.
pub(crate) struct CoalescingStream<S>(Arc<Lock<Buffered<S>>>);

struct Buffered<S> {
    stream: S,
    waiting: Vec<u8>,
    /// [`CoalescingStream::drive`] flushes after the current poll.
    deferred: bool,
}

impl<S> Clone for CoalescingStream<S> {
    fn clone(&self) -> CoalescingStream<S> {
        CoalescingStream(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> CoalescingStream<S> {
    pub(crate) fn new(stream: S) -> CoalescingStream<S> {
        CoalescingStream(Arc::new(Lock::new(Buffered { stream, waiting: Vec::new(), deferred: true })))
    }

    /// Drives a connection over this stream, and flushes what each poll of it wrote. After the connection's end (a protocol
    /// switch) clones of the stream write without delay.
    pub(crate) async fn drive<F: Future>(&self, connection: F) -> Option<F::Output> {
        let mut connection = pin!(connection);
        poll_fn(|context| {
            let polled = connection.as_mut().poll(context);
            let mut inner = self.inner();
            inner.deferred = polled.is_pending();
            match (inner.poll_flush(context), polled) {
                (_, Poll::Ready(output)) => Poll::Ready(Some(output)),
                (Poll::Ready(Err(_)), Poll::Pending) => Poll::Ready(None),
                (_, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }

    fn inner(&self) -> MutexGuard<'_, Buffered<S>> {
        self.0.lock()
    }
}

impl<S: AsyncWrite + Unpin> Buffered<S> {
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut written = 0;
        let drained = loop {
            if written == self.waiting.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(context, &self.waiting[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if written == self.waiting.len() {
            // An idle connection holds no memory.
            self.waiting = Vec::new();
        } else {
            self.waiting.drain(..written);
        }
        drained
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CoalescingStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        Pin::new(&mut inner.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CoalescingStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>();
        // After the connection's end a clone may be dropped without a flush.
        let through = count > MAX_BUFFERED_BYTES || !inner.deferred;
        if through || inner.waiting.len() + count > MAX_BUFFERED_BYTES {
            ready!(inner.poll_drain(context))?;
        }
        if through {
            return Pin::new(&mut inner.stream).poll_write_vectored(context, slices);
        }
        slices.iter().for_each(|slice| inner.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if inner.deferred { Poll::Ready(Ok(())) } else { inner.poll_flush(context) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_drain(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_a_poll_wrote_leaves_in_one_piece_when_it_ends() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let stream = CoalescingStream::new(near);
        let mut writer = stream.clone();
        let mut buffer = [0; 64];
        let connection = async {
            for word in [b"one", b"two"] {
                writer.write_all(word).await.unwrap();
                writer.flush().await.unwrap();
            }
            let mut nothing = ReadBuf::new(&mut buffer);
            let none =
                poll_fn(|context| Poll::Ready(Pin::new(&mut far).poll_read(context, &mut nothing))).await;
            assert!(none.is_pending());
            tokio::task::yield_now().await;
            far.read(&mut buffer).await.unwrap()
        };
        assert_eq!(stream.drive(connection).await, Some(6));
    }

    #[tokio::test]
    async fn after_the_connection_a_clone_writes_without_delay() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let stream = CoalescingStream::new(near);
        stream.drive(async {}).await;
        let mut clone = stream.clone();
        clone.write_all(b"switched").await.unwrap();
        drop((clone, stream));
        let mut buffer = [0; 8];
        far.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"switched");
    }

    #[tokio::test]
    async fn nothing_is_lost_or_reordered_whatever_the_sizes() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let stream = CoalescingStream::new(near);
        let mut writer = stream.clone();
        let sizes =
            [1, 300, MAX_BUFFERED_BYTES, MAX_BUFFERED_BYTES + 1, 5, 3 * MAX_BUFFERED_BYTES, 40_000, 7];
        let sent: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|at| (at % 251) as u8).collect();
        let expected = sent.clone();
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read
        });
        stream
            .drive(async move {
                let mut from = 0;
                for size in sizes {
                    writer.write_all(&sent[from..from + size]).await.unwrap();
                    writer.flush().await.unwrap();
                    from += size;
                }
                writer.shutdown().await.unwrap();
            })
            .await;
        drop(stream);
        assert!(reader.await.unwrap() == expected);
    }
}

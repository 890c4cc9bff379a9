//! A stream of HTTP/2 whose frames are gathered: what a connection sends in one poll goes out in one write, and one record of TLS.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much as a record of TLS has.
const MAX_GATHERED_BYTES: usize = 16 << 10;

/// A stream whose writes and flushes only gather; [`Gathered::drive`] sends what was gathered. Clones are the same stream.
pub(super) struct Gathered<S>(Arc<Mutex<Inner<S>>>);

struct Inner<S> {
    stream: S,
    out: BytesMut,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Gathered(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    pub(super) fn new(stream: S) -> Gathered<S> {
        Gathered(Arc::new(Mutex::new(Inner { stream, out: BytesMut::new() })))
    }

    /// Runs what uses the stream, and sends after each poll. Before each poll other tasks that are ready run, so that their frames
    /// go out together.
    pub(super) async fn drive<F: Future>(&self, mut user: Pin<&mut F>) -> io::Result<F::Output> {
        let mut has_waited = false;
        poll_fn(|context| {
            has_waited = !has_waited;
            if has_waited {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let polled = user.as_mut().poll(context);
            match (polled, self.inner().poll_send(context)) {
                (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (Poll::Ready(output), _) => Poll::Ready(Ok(output)),
                (Poll::Pending, _) => Poll::Pending,
            }
        })
        .await
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Ready when nothing is left to send.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_out(context))?;
        // An idle connection needs no memory.
        self.out = BytesMut::new();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.out))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        if inner.out.len() >= MAX_GATHERED_BYTES {
            ready!(inner.poll_write_out(context))?;
        }
        if inner.out.capacity() == 0 {
            inner.out.reserve(MAX_GATHERED_BYTES);
        }
        let mut taken = 0;
        for slice in slices {
            let room = MAX_GATHERED_BYTES - inner.out.len();
            let piece = &slice[..slice.len().min(room)];
            inner.out.extend_from_slice(piece);
            taken += piece.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// [`Gathered::drive`] flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_send(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_one_poll_is_one_write() {
        let (near, far) = tokio::io::duplex(MAX_GATHERED_BYTES * 4);
        let stream = Gathered::new(near);
        let mut writes = stream.clone();
        let user = std::pin::pin!(async move {
            for _ in 0..3 {
                writes.write_all(b"frame").await.unwrap();
                writes.flush().await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let reads = async {
            let (mut far, mut read) = (far, [0; 100]);
            // The other end never finds a part of it.
            let count = far.read(&mut read).await.unwrap();
            assert_eq!(&read[..count], b"frameframeframe");
        };
        tokio::select! {
            _ = stream.drive(user) => panic!("it has no end"),
            () = reads => {}
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_gets_everything_and_bounds_what_is_gathered() {
        let (near, mut far) = tokio::io::duplex(1_000);
        let stream = Gathered::new(near);
        let mut writes = stream.clone();
        let sent: Vec<u8> = (0..10 * MAX_GATHERED_BYTES).map(|at| at as u8).collect();
        let bytes = sent.clone();
        let writer = async move {
            let user = std::pin::pin!(async {
                for piece in bytes.chunks(700) {
                    writes.write_all(piece).await.unwrap();
                    assert!(writes.inner().out.len() <= MAX_GATHERED_BYTES);
                }
                writes.shutdown().await.unwrap();
            });
            stream.drive(user).await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(writer, far.read_to_end(&mut received));
        assert_eq!((read.unwrap(), received == sent), (sent.len(), true));
    }
}

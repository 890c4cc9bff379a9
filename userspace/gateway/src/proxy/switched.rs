//! Connections that were switched to another protocol, such as WebSocket: bytes both ways.

use std::io;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::http_1::Switched;
use super::upstream::Lease;

const BUFFER_BYTES: usize = 8 << 10;

/// Copies until both ends have said everything, or neither says anything for `idle`.
pub(super) async fn pipe(client: OnUpgrade, endpoint: Switched, lease: Lease, idle: Duration) {
    let Ok(client) = client.await else { return };
    join(TokioIo::new(client), endpoint, idle).await;
    drop(lease);
}

/// Copies until both ends have said everything, or neither says anything for `idle`.
pub(super) async fn join<A, B>(client: A, endpoint: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (from_endpoint, to_endpoint) = tokio::io::split(endpoint);
    let (moved, has_moved) = tokio::sync::watch::channel(());
    let both = async {
        tokio::try_join!(
            copy(from_client, to_endpoint, || moved.send_replace(())),
            copy(from_endpoint, to_client, || moved.send_replace(())),
        )
    };
    tokio::select! {
        // An end of one direction that is an error is the end of both.
        _ = both => {}
        () = silence(has_moved, idle) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: impl Fn(),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        moved();
        to.write_all(&buffer[..count]).await?;
    }
}

/// Returns after a time without a change.
async fn silence(mut moved: tokio::sync::watch::Receiver<()>, idle: Duration) {
    // The sender lives as long as this is waited for.
    while let Ok(Ok(())) = timeout(idle, moved.changed()).await {}
}

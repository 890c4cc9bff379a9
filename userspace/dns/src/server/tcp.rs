//! Questions by TCP (RFC 7766): any number on a connection, answered in order.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::seats::Seats;
use super::shared::{Answer, Protocol, Shared};

/// Connections of all clients, and of one.
const MAX_CONNECTIONS: usize = 1024;
const MAX_CONNECTIONS_OF_CLIENT: usize = 128;
/// How long a connection may be without a question, and how long an answer may take to be read.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a question; a longer one ends the connection.
const MAX_QUESTION_BYTES: usize = 4096;
/// Pause after a failed accept: the process has no free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// For the connections of all listeners.
pub(super) fn seats() -> Seats {
    Seats::new(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_CLIENT)
}

pub(super) async fn serve(listener: TcpListener, connections: Seats, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while open.try_join_next().is_some() {}
        let Ok((stream, client)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // A connection beyond the bounds is closed at once.
        let Some(seat) = connections.take(client.ip()) else { continue };
        let shared = shared.clone();
        open.spawn(async move {
            let _seat = seat;
            // The client closed its connection: an error has no receiver.
            drop(converse(stream, client.ip(), &shared).await);
        });
    }
}

async fn converse(mut stream: TcpStream, client: IpAddr, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut question = Vec::new();
    loop {
        let length: usize = timeout(IDLE_TIMEOUT, stream.read_u16()).await??.into();
        if length > MAX_QUESTION_BYTES {
            return Ok(());
        }
        question.resize(length, 0);
        timeout(IDLE_TIMEOUT, stream.read_exact(&mut question)).await??;
        let answer = match shared.answer(&question, client, Protocol::Tcp) {
            Answer::None => return Ok(()),
            Answer::Now(answer) => answer,
            Answer::Later(pending) => shared.resolve(pending).await,
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(IDLE_TIMEOUT, stream.write_all(&framed)).await??;
    }
}

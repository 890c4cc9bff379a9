//! Questions by TCP (RFC 7766): any number on a connection, answered in order.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

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

/// Open connections by client.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's share of the bounds.
struct Seat {
    connections: Connections,
    client: IpAddr,
}

impl Connections {
    fn seat(&self, client: IpAddr) -> Option<Seat> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.entry(client).or_default();
        if all >= MAX_CONNECTIONS || *own >= MAX_CONNECTIONS_OF_CLIENT {
            if *own == 0 {
                open.remove(&client);
            }
            return None;
        }
        *own += 1;
        Some(Seat { connections: self.clone(), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

pub(super) async fn serve(listener: TcpListener, connections: Connections, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while open.try_join_next().is_some() {}
        let Ok((stream, client)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // A connection beyond the bounds is closed at once.
        let Some(seat) = connections.seat(client.ip()) else { continue };
        let shared = shared.clone();
        open.spawn(async move {
            let _seat = seat;
            // Ends with the client's connection; there is nobody to tell.
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

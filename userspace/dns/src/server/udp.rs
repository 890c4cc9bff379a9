//! Questions by UDP. What waits in the socket is taken out in groups and answered in turns by client.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::shared::{Answer, Pending, Protocol, Shared};
use super::turns::Turns;

/// Bytes of a question. A longer one is cut, and then not well-formed.
const MAX_QUESTION_BYTES: usize = 4096;
/// Packets that are taken out of the socket at once, and answered before more are taken. To take one costs far less than to answer
/// it: a client that fills the socket fills its own share of what waits.
const TAKEN_AT_ONCE: usize = 1024;
const ANSWERED_AT_ONCE: usize = 32;

pub(super) async fn serve(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; MAX_QUESTION_BYTES];
    let mut turns = Turns::default();
    loop {
        if turns.is_empty() {
            // Errors are those of earlier answers to ports that are closed now.
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
            turns.push(client, buffer.get(..length).unwrap_or_default());
        }
        take(&socket, &mut buffer, &mut turns, &shared);
        // Other tasks of the thread have their turn too, whatever kind of answers these are.
        tokio::task::consume_budget().await;
        for (client, packet) in std::iter::from_fn(|| turns.pop()).take(ANSWERED_AT_ONCE) {
            match shared.answer(&packet, client.ip(), Protocol::Udp) {
                Answer::None => {}
                Answer::Now(answer) => send(&socket, &answer, client).await,
                Answer::Later(pending) => later(&socket, pending, client, &shared),
            }
        }
    }
}

/// Takes out what is in the socket now.
fn take(socket: &UdpSocket, buffer: &mut [u8], turns: &mut Turns, shared: &Shared) {
    for _ in 0..TAKEN_AT_ONCE {
        match socket.try_recv_from(buffer) {
            Ok((length, client)) => {
                if !turns.push(client, buffer.get(..length).unwrap_or_default()) {
                    shared.metrics.dropped();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

/// Sends the answer when it is there.
fn later(socket: &Arc<UdpSocket>, pending: Box<Pending>, client: SocketAddr, shared: &Arc<Shared>) {
    let (socket, answering) = (socket.clone(), shared.clone());
    shared.runtime.spawn(async move {
        let answer = answering.resolve(pending).await;
        send(&socket, &answer, client).await;
    });
}

/// An answer that cannot be sent is one that the client does not get: it asks again.
async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, %error, "send an answer failed");
    }
}

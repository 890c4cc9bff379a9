//! Questions by UDP.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::shared::{Answer, Pending, Protocol, Shared};

/// Bytes of a question. A longer one is cut, and then not well-formed.
const MAX_QUESTION_BYTES: usize = 4096;

pub(super) async fn serve(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; MAX_QUESTION_BYTES];
    loop {
        // Errors are those of earlier answers to ports that are closed now.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let packet = buffer.get(..length).unwrap_or_default();
        match shared.answer(packet, client.ip(), Protocol::Udp) {
            Answer::None => {}
            Answer::Now(answer) => send(&socket, &answer, client).await,
            Answer::Later(pending) => later(&socket, pending, client, &shared),
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

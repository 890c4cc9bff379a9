//! Questions by UDP.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use tokio::net::UdpSocket;

use super::shared::{Answer, Pending, Protocol, Shared};
use crate::reply::Reply;

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
            Answer::Later(pending) => later(&socket, pending, client, &shared).await,
        }
    }
}

/// Sends the answer when it is there. Questions beyond the bound fail, so that they need no memory.
async fn later(socket: &Arc<UdpSocket>, pending: Box<Pending>, client: SocketAddr, shared: &Arc<Shared>) {
    let Ok(permit) = shared.waiting.clone().try_acquire_owned() else {
        shared.metrics.overloaded();
        let reply = Reply::of(ResponseCode::ServFail);
        let answer = shared.finish(&pending.query, reply, pending.begun, pending.limit);
        return send(socket, &answer, client).await;
    };
    let (socket, answering) = (socket.clone(), shared.clone());
    shared.runtime.spawn(async move {
        let answer = answering.resolve(pending).await;
        drop(permit);
        send(&socket, &answer, client).await;
    });
}

/// An answer that cannot be sent is one that the client does not get: it asks again.
async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, %error, "send an answer failed");
    }
}

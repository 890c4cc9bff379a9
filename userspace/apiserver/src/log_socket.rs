//! A container's log over a WebSocket: each piece of the log is a message (upstream's wsstream).
//!
//! In: a handshake (RFC 6455), the node's answer. Out: binary messages, or text messages in base64, as the client's protocol
//! says. What the client sends is ignored; its close ends the log.

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skep_api::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The protocols of streams in one direction, and whether their messages are base64; without a protocol they are binary.
const PROTOCOLS: [(&str, bool); 2] = [("binary.k8s.io", false), ("base64.binary.k8s.io", true)];

/// A client's handshake.
pub(crate) struct Handshake {
    accept: HeaderValue,
    protocol: Option<(&'static str, bool)>,
}

impl Handshake {
    /// The handshake in the headers of a request; `None` if it asks for no WebSocket. Err: 400.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Handshake>, Status> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !text(UPGRADE).eq_ignore_ascii_case("websocket") {
            return Ok(None);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| text(SEC_WEBSOCKET_VERSION) == "13");
        let key = key.ok_or_else(|| {
            Status::bad_request("the WebSocket handshake has no key or another version than 13")
        })?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
        let wanted: Vec<&str> = headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(',').map(str::trim))
            .collect();
        let protocol = PROTOCOLS.into_iter().find(|(name, _)| wanted.contains(name));
        if protocol.is_none() && !wanted.is_empty() {
            let known = PROTOCOLS.map(|(name, _)| name).join(", ");
            return Err(Status::bad_request(format!(
                "none of the WebSocket protocols is known: use one of {known}"
            )));
        }
        Ok(Some(Handshake { accept, protocol }))
    }

    /// The answer to the handshake. What `log` has is sent when the client has switched.
    pub(crate) fn answer(self, client: OnUpgrade, log: Body) -> Response {
        let is_text = self.protocol.is_some_and(|(_, is_text)| is_text);
        tokio::spawn(async move {
            let Ok(client) = client.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
            // The client is gone: no request is left to report an error to.
            let _ = send(socket, log, is_text).await;
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some((protocol, _)) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

async fn send<S>(mut socket: WebSocketStream<S>, log: Body, is_text: bool) -> Result<(), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let message = |piece: Bytes| match is_text {
        true => Message::Text(STANDARD.encode(&piece).into()),
        false => Message::Binary(piece),
    };
    let mut log = log.into_data_stream();
    loop {
        tokio::select! {
            piece = log.next() => match piece {
                Some(Ok(piece)) => socket.send(message(piece)).await?,
                Some(Err(_)) | None => return socket.close(None).await,
            },
            received = socket.next() => match received {
                None | Some(Ok(Message::Close(_))) => return Ok(()),
                Some(received) => drop(received?),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::service::service_fn;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    use super::*;

    /// The messages that a client gets, or the code of the refusal.
    async fn read(protocol: Option<&str>) -> Result<(Option<String>, Vec<Message>), u16> {
        let (ours, theirs) = tokio::io::duplex(4096);
        let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| async move {
            let client = hyper::upgrade::on(&mut request);
            let answer = match Handshake::of(request.headers()) {
                Ok(Some(handshake)) => handshake.answer(client, Body::from("one\n")),
                Ok(None) => Response::new(Body::from("no handshake")),
                Err(status) => crate::negotiate::respond_status(&status),
            };
            Ok::<_, Infallible>(answer)
        });
        let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(ours), service);
        tokio::spawn(server.with_upgrades());
        let mut request = "ws://server/log".into_client_request().expect("a request");
        if let Some(protocol) = protocol {
            let value = HeaderValue::from_str(protocol).expect("a header");
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        match tokio_tungstenite::client_async(request, theirs).await {
            Ok((socket, answer)) => {
                let chosen = answer.headers().get(SEC_WEBSOCKET_PROTOCOL);
                let chosen = chosen.map(|value| value.to_str().expect("text").to_owned());
                let messages = socket.filter_map(|message| async { message.ok() });
                Ok((chosen, messages.filter(|m| std::future::ready(!m.is_close())).collect().await))
            }
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn a_log_comes_as_the_clients_protocol_says() {
        let binary = vec![Message::Binary(Bytes::from_static(b"one\n"))];
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(read(None).await, Ok((None, binary.clone())));
        assert_eq!(read(Some("x, binary.k8s.io")).await, Ok((named("binary.k8s.io"), binary)));
        let text = vec![Message::Text("b25lCg==".into())];
        assert_eq!(read(Some("base64.binary.k8s.io")).await, Ok((named("base64.binary.k8s.io"), text)));
        assert_eq!(read(Some("v5.channel.k8s.io")).await, Err(400));
    }
}

//! `pods/log`: a container's log, from its node.
//!
//! In: the request and its pod. Out: the log as the node has it, over a WebSocket if the client asks for one; a node's refusal as
//! a Status, as upstream's GenericHttpResponseChecker makes it, since clients read no other error.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use skep_api::{Reason, Status, meta};

use super::proxy::container;
use crate::call::Call;
use crate::log_socket::Handshake;
use crate::reverse_proxy::forward;
use crate::state::Inner;

/// A node's refusal is a line of text.
const MAX_REFUSAL_BYTES: usize = 50_000;

pub(super) async fn handle(
    server: &Inner,
    call: &Call,
    pod: &Value,
    query: &str,
    mut headers: HeaderMap,
    mut request: Request,
) -> Result<Response, Status> {
    if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        let mut nothing = Response::new(Body::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    let to = container(server, call, pod, query)?;
    let handshake = Handshake::of(&call.headers)?;
    let client = handshake.is_some().then(|| hyper::upgrade::on(&mut request));
    // The node serves the log to this server without a WebSocket.
    headers.remove(UPGRADE);
    headers.remove(CONNECTION);
    let answered = forward(&server.dialer, to, headers, request).await;
    let answer = answered.map_err(|error| Status::internal(format!("error dialing backend: {error}")))?;
    if !answer.status().is_success() {
        let (head, body) = answer.into_parts();
        let text = Limited::new(body, MAX_REFUSAL_BYTES).collect().await.map_err(Status::internal)?;
        return Err(refusal(head.status, &String::from_utf8_lossy(&text.to_bytes()), meta::name(pod)));
    }
    match (handshake, client) {
        (Some(handshake), Some(client)) => Ok(handshake.answer(client, answer.into_body())),
        _ => Ok(answer),
    }
}

/// The Status for a node's refusal.
fn refusal(code: StatusCode, text: &str, pod: &str) -> Status {
    let (reason, message) = match code.as_u16() {
        400 => return Status::bad_request(text),
        500 => return Status::internal(text),
        401 => {
            (Reason::Unauthorized, "the server has asked for the client to provide credentials".to_owned())
        }
        403 => (Reason::Forbidden, text.to_owned()),
        404 => (Reason::NotFound, "the server could not find the requested resource".to_owned()),
        503 => {
            let message = "the server is currently unable to handle the request";
            (Reason::ServiceUnavailable, message.to_owned())
        }
        other if other > 500 => (
            Reason::InternalError,
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ),
        other => (
            Reason::Unknown,
            format!("the server responded with the status code {other} but did not return more information"),
        ),
    };
    Status::new(reason, format!("{message} ( pods/log {pod})"))
        .with_code(code.as_u16())
        .with_details(json!({"name": pod, "kind": "pods/log"}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_refusal_is_a_status_as_upstreams() {
        let waits = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        for (code, text, reason, message) in [
            (400, waits, "BadRequest", waits),
            (500, "disk", "InternalError", "Internal error occurred: disk"),
            (403, "no", "Forbidden", "no ( pods/log p)"),
            (404, "x", "NotFound", "the server could not find the requested resource ( pods/log p)"),
            (
                502,
                "x",
                "InternalError",
                "an error on the server (\"x\") has prevented the request from succeeding ( pods/log p)",
            ),
            (
                418,
                "x",
                "",
                "the server responded with the status code 418 but did not return more information ( pods/log p)",
            ),
        ] {
            let status = refusal(StatusCode::from_u16(code).unwrap(), text, "p");
            let got = (status.code, status.reason.as_str(), status.message.as_str());
            assert_eq!(got, (code, reason, message));
        }
    }
}

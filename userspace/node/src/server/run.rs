//! /run: a command in a container, without streams.
//!
//! In: the container and `cmd`, whose words are separated by single spaces. Out: what the command wrote, first to stdout, then to stderr.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;

use super::answer::{Body, answer, full, text};
use super::proxy::running_container;
use super::query::Query;
use crate::context::NodeContext;

pub(super) async fn serve(
    context: &NodeContext,
    method: &Method,
    pod: &Pod,
    container: &str,
    query: &Query,
) -> Response<Body> {
    if *method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    let id = match running_container(pod, container) {
        Ok(id) => id,
        Err(response) => return *response,
    };
    let line = query.first("cmd").unwrap_or_default();
    let command = line.split(' ').map(str::to_owned).collect();
    let failed = |why: String| text(StatusCode::INTERNAL_SERVER_ERROR, why);
    match context.cri.exec_sync(&id, command, context.streaming_idle_timeout).await {
        Err(error) => failed(error.status.to_string()),
        Ok(done) => {
            let mut output = done.stdout;
            output.extend_from_slice(&done.stderr);
            if done.exit_code != 0 {
                let code = done.exit_code;
                let output = String::from_utf8_lossy(&output);
                return failed(format!("command '{line}' exited with {code}: {output}"));
            }
            // The kubelet says so of any output.
            answer(StatusCode::OK, "application/json", full(Bytes::from(output)))
        }
    }
}

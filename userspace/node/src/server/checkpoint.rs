//! /checkpoint: the runtime writes a container's state to an archive in the agent's folder (KEP-2008).

use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::answer::{Body, json as answer_json, text};
use super::query::Query;
use crate::context::NodeContext;
use crate::cri::api;
use crate::names;
use crate::plan::status::known;

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
    if !crate::plan::specs(pod).iter().any(|spec| spec.container.name == container) {
        return text(StatusCode::NOT_FOUND, format!("container {container} does not exist"));
    }
    let Some(Ok(timeout)) = query.all("timeout").last().map(|text| text.parse()).or(Some(Ok(0))) else {
        return text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
    };
    let (name, namespace, _) = names::of(pod);
    let failed = |why: String| {
        let message = format!("checkpointing of {namespace}/{name}/{container} failed ({why})");
        text(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    let status = pod.status.as_ref().and_then(|status| known(status, container));
    let id = status.filter(|s| s.state.as_ref().is_some_and(|state| state.running.is_some()));
    let id = id.and_then(|s| s.container_id.as_deref()?.split_once("://").map(|(_, id)| id.to_owned()));
    let Some(container_id) = id else { return failed(format!("container {container} is not running")) };
    let folder = context.root.join("checkpoints");
    if let Err(error) = tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).await {
        return failed(format!("create {}: {error}", folder.display()));
    }
    let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let location =
        folder.join(format!("checkpoint-{name}_{namespace}-{container}-{time}.tar")).display().to_string();
    let request = api::CheckpointContainerRequest { container_id, location: location.clone(), timeout };
    match context.cri.checkpoint(request).await {
        Ok(()) => answer_json(&json!({"items": [location]})),
        Err(error) => failed(error.status.to_string()),
    }
}

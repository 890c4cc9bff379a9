//! /containerLogs.
//!
//! In: the query of `kubectl logs`. Out: the container's log, read from its file.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::{Body, answer, text};
use super::query::Query;
use crate::context::NodeContext;
use crate::logs::read;
use crate::names;
use crate::plan::status::known;

pub(super) async fn serve(
    context: &Arc<NodeContext>,
    pod: &Pod,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let selection = match parse(query, Timestamp::now()) {
        Ok(selection) => selection,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let attempt = match attempt(pod, container, selection.previous) {
        Ok(attempt) => attempt,
        Err((status, message)) => return text(status, message),
    };
    let folder = Path::new(&context.settings.log_root).join(names::log_folder(pod));
    let path = folder.join(names::log_file(container, attempt));
    if tokio::fs::metadata(&path).await.is_err() {
        let message = format!("failed to try resolving symlinks in path {path:?}: no such file or directory");
        return text(StatusCode::INTERNAL_SERVER_ERROR, message);
    }
    let (sink, pieces) = mpsc::channel(4);
    let (context, container) = (context.clone(), container.to_owned());
    let (name, namespace, _) = names::of(pod);
    tokio::spawn(async move {
        let changes = context.changes();
        let ended = || !context.pod(&namespace, &name).is_some_and(|pod| runs(&pod, &container, attempt));
        if let Err(error) = read::stream(&path, &selection, &sink, ended, changes).await {
            let _ = sink.send(Err(error)).await;
        }
    });
    let frames = ReceiverStream::new(pieces).map(|piece| piece.map(Frame::data));
    answer(StatusCode::OK, "text/plain", BodyExt::boxed(StreamBody::new(frames)))
}

#[derive(Debug, thiserror::Error)]
#[error("{parameter}: invalid value {value:?}")]
struct InvalidParameter {
    parameter: &'static str,
    value: String,
}

/// A parameter's value, if it has one.
fn value<T: FromStr>(query: &Query, parameter: &'static str) -> Result<Option<T>, InvalidParameter> {
    let Some(value) = query.first(parameter).filter(|value| !value.is_empty()) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| InvalidParameter { parameter, value: value.to_owned() })
}

fn parse(query: &Query, now: Timestamp) -> Result<read::Selection, InvalidParameter> {
    let since_time: Option<Timestamp> = value(query, "sinceTime")?;
    // Before the first time that there is, all lines are newer.
    let since = value::<i64>(query, "sinceSeconds")?
        .map(|seconds| now.checked_sub(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MIN));
    Ok(read::Selection {
        follow: query.flag(&["follow"]),
        previous: query.flag(&["previous"]),
        timestamps: query.flag(&["timestamps"]),
        tail: value(query, "tailLines")?,
        since: since.or(since_time),
        limit_bytes: value(query, "limitBytes")?,
        stream: match query.first("stream") {
            Some("Stdout") => Some(false),
            Some("Stderr") => Some(true),
            _ => None,
        },
    })
}

/// The attempt whose log the client requests.
fn attempt(pod: &Pod, container: &str, previous: bool) -> Result<u32, (StatusCode, String)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let bad = |message: String| Err((StatusCode::BAD_REQUEST, message));
    let specs = crate::plan::specs(pod);
    if !specs.iter().any(|s| s.container.name == container) {
        return Err((StatusCode::NOT_FOUND, format!("container {container} is not valid for pod {name}")));
    }
    let status = pod.status.as_ref().and_then(|s| known(s, container));
    let empty = ContainerStatus::default();
    let status = status.unwrap_or(&empty);
    let count = u32::try_from(status.restart_count).unwrap_or(0);
    let state = status.state.clone().unwrap_or_default();
    let ended_before = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    match (state.waiting, previous, ended_before) {
        // The container waits for its restart: the newest attempt is the one that ended.
        (Some(_), _, true) => Ok(count),
        (Some(_), true, false) | (None, true, false) => {
            bad(format!("previous terminated container \"{container}\" in pod \"{name}\" not found"))
        }
        (Some(waiting), false, false) => {
            let reason = waiting.reason.unwrap_or_default();
            let why = match reason.as_str() {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => other,
            };
            bad(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}"))
        }
        (None, true, true) => Ok(count.saturating_sub(1)),
        (None, false, _) if state.running.is_none() && state.terminated.is_none() => {
            bad(format!("container \"{container}\" in pod \"{name}\" is not available"))
        }
        (None, false, _) => Ok(count),
    }
}

/// Whether that attempt of the container runs.
fn runs(pod: &Pod, container: &str, attempt: u32) -> bool {
    pod.status.as_ref().and_then(|s| known(s, container)).is_some_and(|s| {
        u32::try_from(s.restart_count) == Ok(attempt) && s.state.as_ref().is_some_and(|s| s.running.is_some())
    })
}

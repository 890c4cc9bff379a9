//! /logs: the node's own logs, as files below /var/log or, with a query, from the journal (KEP-2258).
//!
//! In: a path or a query. Out: a file, a folder's entries as links, or the journal's lines.

mod files;
mod journal;
mod source;

use http::{HeaderValue, Method, Response, StatusCode, header};

use super::answer::{Body, text};
use super::query::Query;
use crate::config::SystemLogs;
use source::{Malformed, Source};

/// Answers a request for what is below /logs. `path` is decoded and has no leading slash.
pub(super) async fn serve(
    settings: &SystemLogs,
    method: &Method,
    path: &str,
    query: &Query,
) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return not_allowed();
    }
    let source = match source::parse(query) {
        Ok(source) => source,
        Err(Malformed::Syntax(errors)) => return text(StatusCode::BAD_REQUEST, errors),
        Err(Malformed::Value(errors)) => return text(StatusCode::NOT_ACCEPTABLE, errors),
    };
    match source {
        None => files::serve(&settings.folder, path).await,
        Some(_) if !settings.query => text(StatusCode::METHOD_NOT_ALLOWED, "logs query is disabled."),
        Some(_) if !path.is_empty() => text(StatusCode::NOT_ACCEPTABLE, "path not allowed in query mode"),
        Some(Source::File(file)) => files::serve(&settings.folder, &file).await,
        Some(Source::Services(services, filter)) => journal::serve(settings, services, filter).await,
    }
}

fn not_allowed() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

//! Content negotiation: objects, tables or metadata, made from stored bytes; and the forms of answers.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::{Kind, Status, conversion, table};

use crate::object::Object;

/// The form of objects in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    /// `meta.k8s.io/v1` Table; with whole objects in the rows, their metadata, or nothing.
    Table(Rows),
    Metadata,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    Nothing,
    Metadata,
    Object,
}

/// Reads the Accept header: the first alternative that can be served.
pub(crate) fn view(headers: &HeaderMap, include_object: Option<&str>) -> Result<View, Status> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    for alternative in accept.split(',') {
        let mut parts = alternative.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | YAML | "*/*" | "application/*" | "") {
            continue;
        }
        let (mut kind, mut group, mut version) = ("", "", "");
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => kind = value,
                Some(("g", value)) => group = value,
                Some(("v", value)) => version = value,
                _ => {}
            }
        }
        let ours = group == "meta.k8s.io" && matches!(version, "v1");
        match kind {
            "" => return Ok(View::Whole),
            "Table" if ours => {
                return Ok(View::Table(match include_object {
                    Some("None") => Rows::Nothing,
                    Some("Object") => Rows::Object,
                    _ => Rows::Metadata,
                }));
            }
            "PartialObjectMetadata" | "PartialObjectMetadataList" if ours => return Ok(View::Metadata),
            _ => {}
        }
    }
    Err(not_served())
}

/// 406: the object has no form that the client accepts.
pub(crate) fn not_served() -> Status {
    Status::not_acceptable("application/json, application/yaml, application/vnd.kubernetes.protobuf")
}

const YAML: &str = "application/yaml";

/// Whether YAML is the first alternative that can be served.
pub(crate) fn is_yaml_preferred(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let medias =
        accept.split(',').map(|alternative| alternative.split(';').next().unwrap_or_default().trim());
    medias.into_iter().find(|media| matches!(*media, "application/json" | YAML | "*/*" | "application/*"))
        == Some(YAML)
}

/// An object in the wanted form.
pub(crate) fn render(view: View, kind: &Kind, object: &Object) -> Bytes {
    match view {
        View::Whole if !conversion::is_needed(kind) => object.bytes.clone(),
        View::Metadata => partial(kind, object),
        _ => Bytes::from(render_value(view, kind, object.value()).to_string()),
    }
}

/// As [`render`], from a value in the stored form.
pub(crate) fn render_value(view: View, kind: &Kind, value: Value) -> Value {
    match view {
        View::Whole => conversion::from_storage(kind, value),
        View::Table(rows) => {
            table_of(kind, rows, &value["metadata"]["resourceVersion"].clone(), [value].into_iter(), true)
        }
        View::Metadata => metadata_of(conversion::from_storage(kind, value)),
    }
}

/// PartialObjectMetadata; the metadata is copied from the stored bytes.
pub(crate) fn partial(kind: &Kind, object: &Object) -> Bytes {
    const HEAD: &str = "{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":";
    if conversion::is_needed(kind) {
        return Bytes::from(metadata_of(conversion::from_storage(kind, object.value())).to_string());
    }
    Bytes::from([HEAD, object.metadata(), "}"].concat())
}

fn metadata_of(value: Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]})
}

/// A table of objects in the stored form. `columns`: with column definitions; a watch sends them with its first event only.
pub(crate) fn table_of(
    kind: &Kind,
    rows: Rows,
    revision: &Value,
    objects: impl Iterator<Item = Value>,
    columns: bool,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells = table::cells(kind, &object, now);
            match rows {
                Rows::Nothing => json!({"cells": cells}),
                Rows::Metadata => {
                    json!({"cells": cells, "object": metadata_of(conversion::from_storage(kind, object))})
                }
                Rows::Object => {
                    json!({"cells": cells, "object": conversion::from_storage(kind, object)})
                }
            }
        })
        .collect();
    let definitions = if columns { table::definitions(kind) } else { json!([]) };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision},
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// A JSON answer.
pub(crate) fn respond(code: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A plain text answer.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = respond(code, body.into());
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

pub(crate) fn respond_value(code: StatusCode, value: &Value) -> Response {
    respond(code, Bytes::from(value.to_string()))
}

pub(crate) fn respond_status(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond_value(code, &status.to_value());
    if code == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The answer to a write.
pub(crate) fn respond_object(code: StatusCode, view: View, kind: &Kind, object: &Object) -> Response {
    respond(code, render(view, kind, object))
}

/// All warnings of an answer (upstream's truncateAtTotalRunes); beyond it each is cut, and the last ones are left out.
const MAX_WARNINGS_BYTES: usize = 4 << 10;
/// One of too many warnings (truncateItemRunes).
const MAX_WARNING_BYTES: usize = 256;

/// Adds warnings for the client as headers.
pub(crate) fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    let total: usize = warnings.iter().map(String::len).sum();
    let mut left = MAX_WARNINGS_BYTES;
    for warning in warnings {
        let limit = if total > MAX_WARNINGS_BYTES { MAX_WARNING_BYTES } else { warning.len() };
        let warning = &warning[..warning.floor_char_boundary(limit)];
        let Some(rest) = left.checked_sub(warning.len()) else { return };
        left = rest;
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append(http::header::WARNING, value);
        }
    }
}

/// Smaller bodies are not compressed (upstream's threshold).
const MIN_GZIP_BYTES: usize = 128 << 10;

/// Whether the client accepts compression and the answer is large enough.
pub(crate) fn accepts_gzip(headers: &HeaderMap, size: usize) -> bool {
    let accepts = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    size >= MIN_GZIP_BYTES && accepts.contains("gzip")
}

/// Marks an answer as compressed.
pub(crate) fn as_gzip(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// A JSON answer; compressed if it is large and the client accepts that.
pub(crate) fn respond_large(headers: &HeaderMap, body: Bytes) -> Response {
    use std::io::Write as _;
    if !accepts_gzip(headers, body.len()) {
        return respond(StatusCode::OK, body);
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(compressed) => as_gzip(respond(StatusCode::OK, Bytes::from(compressed))),
        Err(_) => respond(StatusCode::OK, body),
    }
}

//! Decodes request bodies: size limit, JSON, YAML or protobuf.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use skep_api::{Status, document, schema};

use crate::deadline;
use crate::write_options::Options;
use crate::yaml_duplicates::duplicate_keys;

/// As upstream's MaxRequestBodyBytes.
pub(crate) const MAX_BODY_BYTES: usize = 3 << 20;

const YAML: &str = "application/yaml";

/// The media type of upstream's protobuf encoding, for built-in kinds only.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A body of which nothing arrives for this long is given up.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the body; 413 if it is over the limit, 504 if it stops to arrive.
pub(crate) async fn read(body: Body) -> Result<Bytes, Status> {
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = tokio::time::timeout(PROGRESS_TIMEOUT, body.frame());
        let data = match frame.await.map_err(|_| deadline::exceeded())? {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(Status::too_large(MAX_BODY_BYTES));
            }
            Some(Err(error)) => return Err(Status::bad_request(format!("read the body: {error}"))),
            // Most bodies are one piece, which is not copied.
            None if all.is_empty() => return Ok(first),
            None => return Ok(all.freeze()),
        };
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
}

/// The media type, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// An object from a JSON or YAML body.
pub(crate) fn decode(headers: &HeaderMap, bytes: &Bytes) -> Result<Value, Status> {
    match media_type(headers) {
        "" | "application/json" | "*/*" => json(bytes),
        YAML | "text/yaml" => yaml(bytes),
        PROTOBUF => protobuf(bytes),
        _ => Err(Status::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The fields that a body has twice, in upstream's words.
pub(crate) fn duplicates(headers: &HeaderMap, bytes: &Bytes, options: &Options) -> Vec<String> {
    if options.ignores_unknown_fields() {
        return Vec::new();
    }
    match media_type(headers) {
        "" | "application/json" => {
            schema::duplicates(bytes).iter().map(|path| format!("duplicate field \"{path}\"")).collect()
        }
        YAML | "text/yaml" => options.as_yaml_errors("", duplicate_keys(bytes)),
        _ => Vec::new(),
    }
}

pub(crate) fn json(bytes: &[u8]) -> Result<Value, Status> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        Status::bad_request(format!("the object provided is unrecognized (must be of type json): {error}"))
    })?;
    as_object(value)
}

/// A body that is JSON or YAML. JSON is tried first because it is faster to read.
pub(crate) fn json_or_yaml(bytes: &[u8]) -> Result<Value, Status> {
    match serde_json::from_slice(bytes) {
        Ok(value) => as_object(value),
        Err(_) => yaml(bytes),
    }
}

/// Events that aliases of a YAML body may repeat: a few hundred bytes of aliases to aliases can stand for any number.
const MAX_ALIAS_EVENTS: usize = 50_000;

fn yaml(bytes: &[u8]) -> Result<Value, Status> {
    let limits = serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIAS_EVENTS };
    let options = serde_saphyr::options! { alias_limits: limits, legacy_octal_numbers: true,
    // Upstream reports duplicates apart, and takes the last value.
    duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins };
    let value: Value = serde_saphyr::from_slice_with_options(first_document(bytes), options)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}")))?;
    as_object(value)
}

/// The first document of a YAML stream: upstream reads no other. A marker at the start of a line ends a document, unless
/// nothing but comments and directives precedes it.
fn first_document(bytes: &[u8]) -> &[u8] {
    let (mut at, mut begun) = (0, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_marker = |marker: &[u8]| {
            line.strip_prefix(marker).is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
        };
        if begun && (is_marker(b"---") || is_marker(b"...")) {
            return bytes.get(..at).unwrap_or(bytes);
        }
        let content = line.trim_ascii_start().first().copied();
        begun |= match content {
            None | Some(b'#') => false,
            Some(b'%') => line.first() != Some(&b'%'),
            // A marker may have content on its line.
            Some(b'-') if is_marker(b"---") => {
                !matches!(line[3..].trim_ascii_start().first(), None | Some(b'#'))
            }
            Some(_) => true,
        };
        at += line.len();
    }
    bytes
}

fn protobuf(bytes: &[u8]) -> Result<Value, Status> {
    as_object(skep_api::protobuf::decode(bytes).map_err(|error| Status::bad_request(error.to_string()))?)
}

fn as_object(value: Value) -> Result<Value, Status> {
    if !value.is_object() {
        return Err(Status::bad_request("the body of the request is not an object"));
    }
    if document::is_too_deep(&value) {
        return Err(Status::bad_request(
            "the object provided is unrecognized (must be of type json): exceeded max depth",
        ));
    }
    Ok(value)
}

/// An optional body, such as DeleteOptions; null if it is empty.
pub(crate) fn decode_optional(headers: &HeaderMap, bytes: &Bytes) -> Result<Value, Status> {
    if bytes.is_empty() { Ok(Value::Null) } else { decode(headers, bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_document_of_a_yaml_stream_is_read() {
        for text in [
            "a: 1\n---\n",
            "---\na: 1\n---\nb: 2\n",
            "# comment\n--- # the first\na: 1\n...\n",
            "%YAML 1.2\n---\na: 1\n",
            "--- {a: 1}\n--- {b: 2}\n",
            "\n\na: 1",
        ] {
            assert_eq!(json_or_yaml(text.as_bytes()).unwrap(), serde_json::json!({"a": 1}), "{text:?}");
        }
        let text = "a: |\n  x\n  ---\n  y\n";
        assert_eq!(json_or_yaml(text.as_bytes()).unwrap()["a"], "x\n---\ny\n");
    }
}

//! Answers in YAML, for clients that ask for it: the JSON answer, converted. As upstream, a watch has no YAML form.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use skep_api::{Reason, Status};

use crate::blocking::run_blocking;
use crate::negotiate::{is_yaml_preferred, respond_status};

/// An answer is parsed to be converted, which takes several times its size. Longer lists are to be read in pages or as JSON.
const MAX_BYTES: usize = 16 << 20;

/// The answer in the form that the client prefers.
pub(crate) struct Form {
    is_yaml: bool,
}

impl Form {
    pub(crate) fn of(headers: &HeaderMap) -> Form {
        Form { is_yaml: is_yaml_preferred(headers) }
    }

    pub(crate) async fn of_answer(&self, response: Response) -> Response {
        let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/json");
        // On the heap: few requests ask for it.
        if self.is_yaml && is_json { Box::pin(converted(response)).await } else { response }
    }
}

async fn converted(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = Limited::new(body, MAX_BYTES).collect().await else {
        return respond_status(&Status::new(
            Reason::NotAcceptable,
            format!("an answer of more than {MAX_BYTES} bytes has no YAML form: ask for pages, or for JSON"),
        ));
    };
    let text = run_blocking(|| yaml(&body.to_bytes()));
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    parts.headers.remove(CONTENT_LENGTH);
    match text {
        Ok(text) => Response::from_parts(parts, Body::from(text)),
        Err(why) => respond_status(&Status::internal(why.to_string())),
    }
}

/// Why an answer has no YAML form.
#[derive(Debug, thiserror::Error)]
enum ConvertError {
    #[error("the answer is not JSON: {0}")]
    Read(#[from] serde_json::Error),
    #[error("write YAML: {0}")]
    Write(#[from] serde_saphyr::ser::Error),
}

fn yaml(json: &Bytes) -> Result<String, ConvertError> {
    let value: Value = serde_json::from_slice(json)?;
    Ok(serde_saphyr::to_string(&value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that one or another YAML reader takes for something else.
    #[test]
    fn every_text_is_read_back_as_the_same_text() {
        let texts = [
            "",
            " ",
            "yes",
            "no",
            "on",
            "off",
            "y",
            "null",
            "~",
            "true",
            "010",
            "0x1f",
            "1e3",
            "1_000",
            ".inf",
            "1:30",
            "2026-01-01",
            "a: b",
            "- a",
            "# a",
            "a #b",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "'",
            "\"",
            "a\nb\n",
            "\ta",
            "a\r\n",
            "{a}",
            "[a]",
            ">",
            "|",
            "?",
            "=",
            "<<",
            "---",
            "...",
            "\u{85}",
            "\u{feff}a",
            "é",
        ];
        for text in texts {
            let value = serde_json::json!({"k": text, text: [text, {"x": [text]}], "n": 1.5, "z": null});
            let written = yaml(&Bytes::from(value.to_string())).unwrap();
            let read: Value = serde_saphyr::from_str(&written).unwrap();
            assert_eq!(read, value, "{written}");
        }
    }
}

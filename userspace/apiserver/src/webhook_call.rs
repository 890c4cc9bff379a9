//! Posts a review to a webhook that the administrator configured, and reads the status of its answer. An answer that says
//! that it may come later is asked for again, as upstream does.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::RETRY_AFTER;
use rand::Rng as _;
use serde_json::Value;

use crate::https::HttpsError;
use crate::kubeconfig::RemoteServer;

const MAX_ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: f64 = 1.5;
/// The part of a pause by which it may be longer.
const JITTER: f64 = 0.2;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0}")]
    Https(#[from] HttpsError),
    #[error("status {0}")]
    Code(u16),
    #[error("the answer is no {0}")]
    Answer(String),
}

impl CallError {
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, CallError::Https(HttpsError::Timeout))
            || *self == CallError::Code(StatusCode::GATEWAY_TIMEOUT.as_u16())
    }
}

/// The `status` of the answer, which is a review of the same kind and version.
pub(crate) async fn post_review(
    server: &RemoteServer,
    api_version: &str,
    kind: &str,
    body: Bytes,
    timeout: Duration,
) -> Result<Value, CallError> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        let answer = server.post(body.clone(), timeout).await?;
        if answer.code.is_success() {
            return read(&answer.body, api_version, kind);
        }
        let is_transient = matches!(
            answer.code,
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::GATEWAY_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
        let is_transient = is_transient || answer.headers.contains_key(RETRY_AFTER);
        if !is_transient || attempt == MAX_ATTEMPTS {
            return Err(CallError::Code(answer.code.as_u16()));
        }
        let factor = 1.0 + JITTER * rand::rng().random::<f64>();
        tokio::time::sleep(pause.mul_f64(factor)).await;
        pause = pause.mul_f64(PAUSE_FACTOR);
    }
    Err(CallError::Https(HttpsError::Timeout))
}

fn read(body: &[u8], api_version: &str, kind: &str) -> Result<Value, CallError> {
    let bad = || CallError::Answer(format!("{kind} of {api_version}"));
    let mut answer: Value = serde_json::from_slice(body).map_err(|_| bad())?;
    if answer["kind"] != kind || answer["apiVersion"] != api_version || !answer["status"].is_object() {
        return Err(bad());
    }
    Ok(answer["status"].take())
}

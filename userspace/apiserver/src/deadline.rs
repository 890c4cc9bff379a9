//! The time that a request may take.
//!
//! As upstream's: one minute, or less if the client says so, for all that does not stream.

use std::time::Duration;

use jiff::SignedDuration;
use skep_api::Status;

use crate::query::Query;
use crate::request_info::RequestInfo;

/// As upstream's --request-timeout.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The time that a request has; `None` if its client decides how long it stays open. An error for a time that cannot be
/// read.
pub(crate) fn limit(info: &RequestInfo<'_>, query: &Query) -> Result<Option<Duration>, Status> {
    if info.is_long_running() {
        return Ok(None);
    }
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else {
        return Ok(Some(REQUEST_TIMEOUT));
    };
    let parsed = if text == "0" { Some(Duration::ZERO) } else { parse(text) };
    match parsed {
        Some(Duration::ZERO) => Ok(Some(REQUEST_TIMEOUT)),
        Some(wanted) => Ok(Some(wanted.min(REQUEST_TIMEOUT))),
        None => Err(Status::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration \"{text}\""
        ))),
    }
}

fn parse(text: &str) -> Option<Duration> {
    text.parse::<SignedDuration>().ok().and_then(|parsed| Duration::try_from(parsed).ok())
}

/// The answer to a request that took too long.
pub(crate) fn exceeded() -> Status {
    Status::timeout("Timeout: request did not complete within the allotted timeout")
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn all_that_does_not_stream_has_a_minute_or_what_its_client_wants() {
        for (path, wanted) in [
            ("/api/v1/pods", Ok(Some(60))),
            ("/api/v1/pods?timeout=5s", Ok(Some(5))),
            ("/api/v1/pods?timeout=1h", Ok(Some(60))),
            ("/api/v1/pods?timeout=0s", Ok(Some(60))),
            ("/version", Ok(Some(60))),
            ("/api/v1/pods?watch=1&timeout=5s", Ok(None)),
            ("/api/v1/namespaces/a/pods/b/log", Ok(None)),
            ("/api/v1/namespaces/a/pods/b/exec", Ok(None)),
            ("/api/v1/namespaces/a/services/b/proxy/x", Ok(None)),
            ("/apis/metrics.k8s.io/v1beta1/pods", Ok(Some(60))),
            (
                "/api/v1/pods?timeout=soon",
                Err("invalid timeout specified in the request URL - time: invalid duration \"soon\""),
            ),
        ] {
            let uri: http::Uri = path.parse().unwrap();
            let query = Query::parse(&uri);
            let info = RequestInfo::parse(&Method::GET, uri.path(), query.is_true("watch"));
            let found = limit(&info, &query);
            let found = found.as_ref().map(|limit| limit.map(|limit| limit.as_secs()));
            assert_eq!(found.map_err(|status| &*status.message), wanted, "{path}");
        }
    }
}

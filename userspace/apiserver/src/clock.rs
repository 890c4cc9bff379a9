//! Times as the API writes them: RFC 3339 in UTC, whole seconds.

use jiff::Timestamp;

pub(crate) fn now() -> String {
    timestamp(Timestamp::now())
}

pub(crate) fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

//! Why an endpoint does not answer a request.

use super::http_1::Http1Error;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("connect failed: {0}")]
    Connect(std::io::Error),
    #[error("connect timed out")]
    ConnectTimeout,
    #[error("handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("the endpoint agrees on another protocol than HTTP/2")]
    NotHttp2,
    #[error(transparent)]
    Http1(#[from] Http1Error),
    #[error("{0}")]
    Http2(#[from] hyper::Error),
    #[error("the host cannot be that of a request of HTTP/2")]
    Host,
    #[error("no response in time")]
    ResponseTimeout,
    #[error("the backend has no endpoint")]
    NoEndpoint,
    #[error("the endpoint has as many requests as it may have")]
    Busy,
}

impl SendError {
    /// Whether the client's request failed, not the endpoint.
    pub(super) fn is_of_request(&self) -> bool {
        match self {
            SendError::Http1(error) => matches!(error, Http1Error::Body(_) | Http1Error::Length),
            SendError::Http2(error) => error.is_user(),
            // It did not fail either.
            SendError::Host | SendError::Busy => true,
            SendError::Connect(_)
            | SendError::ConnectTimeout
            | SendError::Handshake(_)
            | SendError::NotHttp2
            | SendError::ResponseTimeout
            | SendError::NoEndpoint => false,
        }
    }
}

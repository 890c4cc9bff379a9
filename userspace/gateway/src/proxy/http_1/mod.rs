//! HTTP/1.1 towards endpoints: connections, and one request at a time on each. In: a connection and a request. Out: a response whose
//! body has the connection, and gives it back at its end.
//!
//! A request has no task and no channel: the future that waits for the response sends the body meanwhile. Only what is left of a body when the
//! response is there already is sent by a task.

mod body;
mod connection;
mod request;
mod upload;

use std::io;

pub(super) use body::{Http1Body, Switched};
pub(super) use connection::Connection;
pub(super) use request::send;

use super::request_body::BodyError;
use crate::http_1::Malformed;

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Http1Error {
    #[error("send failed: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Of the request's own body.
    #[error("the request's body: {0}")]
    Body(BodyError),
    #[error("the request's body does not have the length that its head said")]
    Length,
}

/// Why a response has no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("receive failed: {0}")]
    Io(#[from] io::Error),
    #[error("the endpoint closed the connection")]
    Closed,
    #[error("malformed response: {0}")]
    Malformed(#[from] Malformed),
    #[error("too many interim responses")]
    Interim,
}

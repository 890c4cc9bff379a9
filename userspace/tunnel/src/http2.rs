//! The HTTP/2 settings of both ends.
//!
//! A stream whose reader is slow holds what its window admits. The connection's window is that of all streams together, so
//! that slow readers never hold up the others.

use std::io::ErrorKind;

use h2::{client, server};

/// Bytes on their way in one direction of a stream.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Connections at once through one tunnel.
const MAX_STREAMS: u32 = 1_024;
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * MAX_STREAMS;
/// A CONNECT request has one short header, its answer a short text.
const MAX_HEADER_BYTES: u32 = 4 << 10;
/// Streams that the peer may reset before this end looks at them, beyond which the tunnel ends.
const MAX_UNSEEN_RESETS: usize = 128;
/// Bytes of a stream that wait in memory for the connection.
const MAX_WAITING_BYTES: usize = 64 << 10;

/// The API server's end.
pub(crate) fn client() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(MAX_WAITING_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES);
    builder
}

/// The agent's end.
pub(crate) fn server() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(MAX_WAITING_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS);
    builder
}

/// Why a tunnel broke, for the user of a connection through it.
pub(crate) fn reason(error: &h2::Error) -> String {
    match error.get_io().map(std::io::Error::kind) {
        // What TLS says of a process that ended is of no help.
        Some(ErrorKind::UnexpectedEof) => "the agent closed its connection".to_owned(),
        _ => error.to_string(),
    }
}

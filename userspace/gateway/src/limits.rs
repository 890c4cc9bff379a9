//! The bounds of what clients and endpoints may take. PURE.

use std::time::Duration;

/// Times and sizes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For a TLS handshake.
    pub handshake_timeout: Duration,
    /// For the head of a request, from its first byte to its last.
    pub head_timeout: Duration,
    /// For a connection of a client without a request.
    pub idle_timeout: Duration,
    /// Between two pieces of a request's body.
    pub body_timeout: Duration,
    /// For a connection to an endpoint.
    pub connect_timeout: Duration,
    /// From the request to the head of its response.
    pub response_timeout: Duration,
    /// Between two pieces of a response's body.
    pub stream_timeout: Duration,
    /// For a connection that was switched to another protocol, without a byte in either direction.
    pub switched_timeout: Duration,
    /// For connections that end when the gateway stops.
    pub drain_timeout: Duration,
    pub max_head_bytes: usize,
    /// Of a request's body; `None`: any.
    pub max_body_bytes: Option<u64>,
    /// Of all clients.
    pub max_connections: usize,
    /// Of one address. A load balancer may stand behind it, so it is not a small number.
    pub max_connections_of_address: usize,
    /// Requests at once on a connection of HTTP/2.
    pub max_streams: u32,
    /// Requests of a connection that its client ended before the response, beyond which the connection ends, if they are the
    /// greater part of all its requests.
    pub max_aborted: usize,
    /// Frames of HTTP/2 that belong to no request and no body, in bytes since the last that did. More than a window of flow control.
    pub max_idle_bytes: usize,
}

impl Limits {
    /// The usual bounds, for a process that may open so many files. A request needs two.
    pub fn of_descriptors(descriptors: u64) -> Limits {
        let max_connections = usize::try_from(descriptors / 4).unwrap_or(usize::MAX).clamp(64, 65_536);
        Limits {
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(60),
            stream_timeout: Duration::from_secs(300),
            switched_timeout: Duration::from_secs(3_600),
            drain_timeout: Duration::from_secs(10),
            max_head_bytes: 64 << 10,
            max_body_bytes: None,
            max_connections,
            max_connections_of_address: max_connections / 2,
            max_streams: 128,
            max_aborted: 200,
            max_idle_bytes: 2 << 20,
        }
    }
}

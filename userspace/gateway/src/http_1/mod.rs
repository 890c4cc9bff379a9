//! HTTP/1.1 towards endpoints, as bytes (RFC 9112). PURE. In: the head of a request, and bytes that an endpoint sent. Out: bytes to
//! send, and the head and the body of a response.
//!
//! What could be read in two ways is an error: an endpoint behind another proxy must not hide a response in another one.

mod body_reader;
mod chunk;
mod control;
mod fields;
mod framing;
mod head_reader;
mod request_head;
mod response_head;

pub use body_reader::{BodyReader, Piece};
pub(crate) use fields::write_field;
pub use framing::Framing;
pub use head_reader::HeadReader;
pub(crate) use request_head::{Length, write_head};
pub use response_head::{MAX_HEAD_BYTES, ResponseHead};

/// Of a head and of trailers.
const MAX_HEADERS: usize = 128;

/// Why what an endpoint sent is not a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the head is not one of HTTP/1")]
    Head(#[from] httparse::Error),
    #[error("the head is too large")]
    LargeHead,
    #[error("a header is not valid")]
    Header,
    #[error("the status is not one of a response")]
    Status,
    /// RFC 9112, 6.3.
    #[error("the length of the body is not clear")]
    Length,
    #[error("the body has a coding other than chunked")]
    Coding,
    #[error("a chunk has no valid size")]
    Chunk,
    #[error("the trailers are too large")]
    LargeTrailers,
}

#[cfg(test)]
mod tests;

//! The body of a list: the cached bytes of its objects, joined piece by piece as the connection takes them.
//!
//! A list of any size needs the memory of one piece, and a thread for no longer than one piece takes.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};

use crate::negotiate::{accepts_gzip, as_gzip, respond};
use crate::object::Object;
use crate::perishable::Perishable;

/// Bytes of one piece, before compression.
const PIECE_BYTES: usize = 128 << 10;

struct Items {
    head: String,
    objects: Objects,
    first: bool,
    ended: bool,
    /// Bytes that are still to come, before compression.
    left: u64,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Other tasks ran since the last piece. Compression is slow enough to yield after each.
    rested: bool,
}

/// The objects that are still to come.
enum Objects {
    Short(std::vec::IntoIter<Arc<Object>>),
    /// Of more than one piece: a client that does not read must not keep them.
    Long(Perishable<std::vec::IntoIter<Arc<Object>>>),
}

impl Objects {
    /// Uses them for one piece.
    fn with<R>(
        &mut self,
        usage: impl FnOnce(&mut std::vec::IntoIter<Arc<Object>>) -> R,
    ) -> Result<R, Stalled> {
        match self {
            Objects::Short(objects) => Ok(usage(objects)),
            Objects::Long(objects) => objects.with(usage).ok_or(Stalled),
        }
    }
}

/// The client took nothing of a list for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client is too slow")]
struct Stalled;

/// Answers with a list. `head` is its text up to the items, including the opening bracket.
pub(super) fn respond_items(headers: &HeaderMap, head: String, objects: Vec<Arc<Object>>) -> Response {
    let bytes: usize = objects.iter().map(|object| object.bytes.len()).sum();
    let size = head.len() + bytes + objects.len().saturating_sub(1) + END.len();
    let gzip = accepts_gzip(headers, size).then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    let compressed = gzip.is_some();
    let objects = match objects.into_iter() {
        objects if size <= PIECE_BYTES => Objects::Short(objects),
        objects => Objects::Long(Perishable::new(objects)),
    };
    let items = Items { head, objects, first: true, ended: false, left: size as u64, gzip, rested: true };
    let mut response = respond(StatusCode::OK, Bytes::new());
    *response.body_mut() = Body::new(items);
    if compressed { as_gzip(response) } else { response }
}

const END: &[u8] = b"]}";

impl Items {
    /// The next piece before compression.
    fn join(&mut self) -> Result<Vec<u8>, Stalled> {
        let mut out = Vec::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 3));
        out.append(&mut std::mem::take(&mut self.head).into_bytes());
        let (first, ended) = (&mut self.first, &mut self.ended);
        self.objects.with(|objects| {
            while out.len() < PIECE_BYTES {
                let Some(object) = objects.next() else {
                    out.extend_from_slice(END);
                    *ended = true;
                    return;
                };
                if !std::mem::take(first) {
                    out.push(b',');
                }
                out.extend_from_slice(&object.bytes);
            }
        })?;
        Ok(out)
    }

    fn piece(&mut self) -> std::io::Result<Vec<u8>> {
        loop {
            let plain = self.join().map_err(std::io::Error::other)?;
            self.left = self.left.saturating_sub(plain.len() as u64);
            let Some(encoder) = &mut self.gzip else { return Ok(plain) };
            encoder.write_all(&plain)?;
            if self.ended {
                encoder.try_finish()?;
            }
            let out = std::mem::take(encoder.get_mut());
            // A compressor may buffer all of its input.
            if !out.is_empty() || self.ended {
                return Ok(out);
            }
        }
    }
}

impl http_body::Body for Items {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.gzip.is_some() && !std::mem::replace(&mut self.rested, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.rested = false;
        let piece = self.piece();
        self.ended |= piece.is_err();
        Poll::Ready(Some(piece.map(|piece| Frame::data(Bytes::from(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        if self.gzip.is_some() { SizeHint::default() } else { SizeHint::with_exact(self.left) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http::HeaderValue;
    use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
    use http_body::Body as _;
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};
    use skep_store::Entry;

    use super::*;

    fn objects(count: u64) -> Vec<Arc<Object>> {
        let kind = skep_api::find("", "v1", "configmaps").unwrap();
        let object = |at: u64| {
            let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{at}")}, "data": {"a": "x".repeat(900)}});
            let (key, value) = (format!("/registry/configmaps/n/c{at}").into(), value.to_string().into());
            Arc::new(Object::from_entry(kind, &Entry { key, value, created: at, modified: at }))
        };
        (1..=count).map(object).collect()
    }

    async fn list(count: u64, headers: &HeaderMap) -> (Response, Vec<u8>) {
        let response = respond_items(headers, "{\"items\":[".to_owned(), objects(count));
        let (parts, body) = response.into_parts();
        let exact = body.size_hint().exact();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        assert!(exact.is_none_or(|exact| exact == bytes.len() as u64), "{exact:?} is not {}", bytes.len());
        (Response::from_parts(parts, Body::empty()), bytes)
    }

    #[tokio::test]
    async fn a_list_of_any_length_is_whole() {
        for count in [0, 1, 2, 500, 2_000] {
            let (_, bytes) = list(count, &HeaderMap::new()).await;
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len() as u64, count);
        }
    }

    #[tokio::test]
    async fn a_large_list_is_compressed_for_a_client_that_accepts_it() {
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
        let (response, bytes) = list(2_000, &headers).await;
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["items"].as_array().unwrap().len(), 2_000);
        let (response, _) = list(3, &headers).await;
        assert!(response.headers().get(CONTENT_ENCODING).is_none());
    }
}

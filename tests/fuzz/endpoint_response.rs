//! What endpoints of the gateway send.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};
use skep_gateway::http_1::{BodyReader, HeadReader, Malformed, Piece};

/// What was made of a response.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// `false`: it was cut.
    is_whole: bool,
}

/// A response of HTTP/1 in pieces of one byte and as a whole: both are read the same, and no more is taken than came.
pub fn endpoint_response(bytes: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let whole = read(&method, [bytes].into_iter());
        let in_pieces = read(&method, bytes.chunks(1));
        match (whole, in_pieces) {
            (Ok(whole), Ok(in_pieces)) => {
                assert_eq!(whole, in_pieces);
                let taken = whole.as_ref().map_or(0, |whole| whole.body.len());
                assert!(taken <= bytes.len());
            }
            // A head that is cut may be malformed where it was not looked at yet.
            (Err(_), Err(_) | Ok(None)) => {}
            (whole, in_pieces) => panic!("{whole:?} as a whole, {in_pieces:?} in pieces"),
        }
    }
}

/// `None`: the head was cut.
fn read<'a>(method: &Method, mut pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<Read>, Malformed> {
    let (mut input, mut heads) = (BytesMut::new(), HeadReader::default());
    let head = loop {
        if let Some(head) = heads.next(&mut input, method)? {
            break head;
        }
        match pieces.next() {
            Some(piece) => input.extend_from_slice(piece),
            None => return Ok(None),
        }
    };
    let (mut body, mut trailers, mut reader) = (Vec::new(), None, BodyReader::new(head.framing));
    let is_whole = loop {
        match reader.next(&mut input)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::End => break true,
            Piece::More => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => break reader.close(),
            },
        }
    };
    Ok(Some(Read { status: head.status, headers: head.headers, body, trailers, is_whole }))
}

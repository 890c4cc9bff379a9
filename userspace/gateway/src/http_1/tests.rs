//! Responses in any pieces, those that could be read in two ways, and heads of requests.

use bytes::BytesMut;
use http::Method;
use http::header::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use proptest::prelude::*;

use super::*;
use crate::outgoing::Outgoing;

/// A whole response: its head, its body, its trailers, and what followed it.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    status: u16,
    headers: Vec<(String, String)>,
    keeps_open: bool,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    rest: Vec<u8>,
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Reads a response that comes in pieces, and then the end of the connection. `None`: it was cut.
fn read(method: &Method, pieces: &[&[u8]]) -> Result<Option<Whole>, Malformed> {
    let (mut input, mut pieces, mut heads) = (BytesMut::new(), pieces.iter(), HeadReader::default());
    let head = loop {
        if let Some(head) = heads.next(&mut input, method)? {
            break head;
        }
        match pieces.next() {
            Some(piece) => input.extend_from_slice(piece),
            None => return Ok(None),
        }
    };
    let (mut body, mut trailers, mut reader) = (Vec::new(), Vec::new(), BodyReader::new(head.framing));
    loop {
        match reader.next(&mut input)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = pairs(&fields),
            Piece::End => break,
            Piece::More => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None if reader.close() => break,
                None => return Ok(None),
            },
        }
    }
    pieces.for_each(|piece| input.extend_from_slice(piece));
    let (status, headers, keeps_open) = (head.status.as_u16(), pairs(&head.headers), head.keeps_open);
    Ok(Some(Whole { status, headers, keeps_open, body, trailers, rest: input.to_vec() }))
}

fn read_whole(method: Method, bytes: &[u8]) -> Result<Option<Whole>, Malformed> {
    read(&method, &[bytes])
}

#[test]
fn the_end_of_a_body_is_where_its_head_says() {
    for (method, response, body, rest, keeps_open) in [
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokXX", "ok", "XX", true),
        (Method::GET, "HTTP/1.1 200\r\ncontent-length:2 \r\n\r\nok", "ok", "", true),
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nXX", "", "XX", true),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\nall of it", "all of it", "", false),
        (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nXX", "", "XX", true),
        (Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", "", true),
        (Method::GET, "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nXX", "", "XX", true),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nXX", "", "XX", true),
        (Method::GET, "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nXX", "", "XX", false),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nXX",
            "ok",
            "XX",
            true,
        ),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00A ;a=\"b\"\r\n0123456789\r\n0\r\n\r\n",
            "0123456789",
            "",
            true,
        ),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nok",
            "ok",
            "",
            false,
        ),
        (Method::GET, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", "", false),
        (
            Method::GET,
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\nok",
            "ok",
            "",
            true,
        ),
    ] {
        let read = read_whole(method, response.as_bytes()).unwrap().expect(response);
        let (read_body, read_rest) =
            (String::from_utf8(read.body).unwrap(), String::from_utf8(read.rest).unwrap());
        assert_eq!((&*read_body, &*read_rest, read.keeps_open), (body, rest, keeps_open), "{response:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let in_chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (response, wanted) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(), Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na".to_owned(), Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na".to_owned(), Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na".to_owned(), Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\na".to_owned(), Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\na".to_owned(), Malformed::Length),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\na".to_owned(), Malformed::Length),
        ("HTTP/1.1 204 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(), Malformed::Length),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            Malformed::Length,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
            Malformed::Coding,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n".to_owned(), Malformed::Coding),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            Malformed::Coding,
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), Malformed::Coding),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n".to_owned(), Malformed::Head(httparse::Error::HeaderName)),
        (
            "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\na".to_owned(),
            Malformed::Head(httparse::Error::HeaderName),
        ),
        ("HTTP/2.0 200 OK\r\n\r\n".to_owned(), Malformed::Head(httparse::Error::Version)),
        (format!("{in_chunks}2\nok\n0\n\n"), Malformed::Chunk),
        (format!("{in_chunks}2;a=\nok\r\n0\r\n\r\n"), Malformed::Chunk),
        (format!("{in_chunks}2;\rok\r\n0\r\n\r\n"), Malformed::Chunk),
        (format!("{in_chunks}3\r\nok\r\n0\r\n\r\n"), Malformed::Chunk),
        (format!("{in_chunks}-1\r\nok\r\n"), Malformed::Chunk),
        (format!("{in_chunks}0x2\r\nok\r\n"), Malformed::Chunk),
        (format!("{in_chunks} 2\r\nok\r\n"), Malformed::Chunk),
        (format!("{in_chunks}\r\nok\r\n"), Malformed::Chunk),
        (format!("{in_chunks}00000000000000002\r\nok\r\n"), Malformed::Chunk),
        (format!("{in_chunks}2;{}\r\nok\r\n", "x".repeat(5_000)), Malformed::Chunk),
        (format!("{in_chunks}{}", "0".repeat(5_000)), Malformed::Chunk),
        (format!("{in_chunks}0\r\nA: {}", "x".repeat(20_000)), Malformed::LargeTrailers),
        (format!("{in_chunks}0\r\nA: b\r\n c\r\n\r\n"), Malformed::Head(httparse::Error::HeaderName)),
        (format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(MAX_HEAD_BYTES)), Malformed::LargeHead),
        (
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(129)),
            Malformed::Head(httparse::Error::TooManyHeaders),
        ),
    ] {
        let read = read_whole(Method::GET, response.as_bytes());
        assert_eq!(read, Err(wanted), "{response:.80?}");
    }
}

#[test]
fn a_response_that_is_cut_has_no_end() {
    for whole in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n",
    ] {
        for end in 0..whole.len() {
            assert_eq!(read_whole(Method::GET, &whole.as_bytes()[..end]), Ok(None), "{}", &whole[..end]);
        }
        assert!(read_whole(Method::GET, whole.as_bytes()).unwrap().is_some());
    }
}

#[test]
fn a_head_says_what_its_body_is_and_not_what_the_client_said_of_it() {
    let head = |method: Method, headers: &[(&str, &str)]| {
        let field = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
            (name.parse().unwrap(), value.parse().unwrap())
        };
        let headers = headers.iter().map(field).collect();
        let (host, path) = (HeaderValue::from_static("b"), PathAndQuery::from_static("/a?b"));
        Outgoing { method, host, path, headers, forwarded: None, is_grpc: false }
    };
    for (method, headers, length, wanted) in [
        (Method::GET, vec![("host", "a")], Length::Known(0), "GET /a?b HTTP/1.1\r\nhost: a\r\n\r\n"),
        (
            Method::GET,
            vec![("content-length", "0")],
            Length::Known(0),
            "GET /a?b HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            Method::POST,
            vec![],
            Length::Known(0),
            "POST /a?b HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            Method::POST,
            vec![("content-length", "9"), ("x", "")],
            Length::Known(4),
            "POST /a?b HTTP/1.1\r\nhost: b\r\nx: \r\ncontent-length: 4\r\n\r\n",
        ),
        (
            Method::POST,
            vec![("content-length", "9"), ("transfer-encoding", "x")],
            Length::Unknown,
            "POST /a?b HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
    ] {
        let mut out = BytesMut::new();
        write_head(&head(method, &headers), length, &mut out);
        assert_eq!(out, wanted);
    }
}

/// Bodies as servers send them, with what their reader should find.
fn response() -> impl Strategy<Value = (Vec<u8>, Whole)> {
    let body = prop::collection::vec(any::<u8>(), 0..200);
    let trailer = prop::option::of("[a-z]{1,8}");
    (prop::collection::vec(body, 0..5), trailer, any::<bool>(), prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(pieces, trailer, is_chunked, rest)| {
            let pieces: Vec<Vec<u8>> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
            let body = pieces.concat();
            let (name, value) = match is_chunked {
                true => ("transfer-encoding", "chunked".to_owned()),
                false => ("content-length", body.len().to_string()),
            };
            let mut sent = format!("HTTP/1.1 200 OK\r\n{name}: {value}\r\n\r\n").into_bytes();
            let mut trailers = Vec::new();
            if is_chunked {
                for piece in &pieces {
                    sent.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                    sent.extend_from_slice(piece);
                    sent.extend_from_slice(b"\r\n");
                }
                sent.extend_from_slice(b"0\r\n");
                if let Some(trailer) = trailer {
                    sent.extend(format!("x-{trailer}: 1\r\n").into_bytes());
                    trailers.push((format!("x-{trailer}"), "1".to_owned()));
                }
                sent.extend_from_slice(b"\r\n");
            } else {
                sent.extend_from_slice(&body);
            }
            sent.extend_from_slice(&rest);
            let headers = vec![(name.to_owned(), value)];
            (sent, Whole { status: 200, headers, keeps_open: true, body, trailers, rest })
        })
}

proptest! {
    #[test]
    fn the_pieces_of_a_response_make_no_difference((sent, wanted) in response(), size in 1..40usize) {
        let pieces: Vec<&[u8]> = sent.chunks(size).collect();
        prop_assert_eq!(read(&Method::GET, &pieces), Ok(Some(wanted)));
    }

    #[test]
    fn any_bytes_are_read_the_same_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..60), size in 1..9usize) {
        let sent = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &bytes].concat();
        let pieces: Vec<&[u8]> = sent.chunks(size).collect();
        prop_assert_eq!(read(&Method::GET, &pieces), read(&Method::GET, &[&sent]));
    }
}

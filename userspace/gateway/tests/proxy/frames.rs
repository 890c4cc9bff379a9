//! Floods of HTTP/2 frames, byte by byte as RFC 9113 has them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::harness::{Routes, TestGateway, get, limits};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// `:method: GET`, `:scheme: http`, `:path: /?ms=1000` and `:authority: a` (RFC 7541).
const GET: &[u8] = b"\x82\x86\x04\x0a/?ms=10000\x41\x01a";
const POST: &[u8] = b"\x83\x86\x84\x41\x01a";
/// Bytes of a flood: more than any connection may send without a request.
const MAX_FLOOD_BYTES: usize = 64 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut all = length[1..].to_vec();
    all.extend([kind, flags]);
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

/// Sends a beginning, then the flood until the gateway ends the connection; returns how many bytes it took, and the error code of its
/// GOAWAY.
async fn flood(gateway: &TestGateway, first: &[u8], flood: &[u8]) -> (usize, Option<u32>) {
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[]), first].concat();
    write.write_all(&hello).await.unwrap();
    let answers = tokio::spawn(async move {
        let mut all = Vec::new();
        // A reset ends it too.
        let _ = read.read_to_end(&mut all).await;
        goaway(&all)
    });
    let many = flood.repeat(16_384 / flood.len() + 1);
    let mut sent = 0;
    while sent < MAX_FLOOD_BYTES {
        match timeout(Duration::from_secs(10), write.write_all(&many)).await {
            Ok(Ok(())) => sent += many.len(),
            Ok(Err(_)) => break,
            Err(_) => panic!("the connection neither reads nor ends"),
        }
    }
    (sent, timeout(Duration::from_secs(10), answers).await.expect("the connection does not end").unwrap())
}

/// The error code of the last GOAWAY.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    let mut code = None;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = rest.get(..length)?;
        if *kind == GOAWAY {
            code = Some(u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?));
        }
        bytes = &rest[length..];
    }
    code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_ends_its_connection() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let request = frame(HEADERS, END_HEADERS | 1, 1, GET);
    let upload = frame(HEADERS, END_HEADERS, 1, POST);
    let window = frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
    for (name, first, frames) in [
        ("pings", &[][..], frame(PING, 0, 0, b"12345678")),
        ("pings beside a request", &request, frame(PING, 0, 0, b"12345678")),
        ("settings", &[], frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("empty settings", &[], frame(SETTINGS, 0, 0, &[])),
        ("priorities", &request, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("window updates", &request, window),
        ("data without data", &upload, frame(DATA, 0, 1, &[])),
        ("unknown frames", &[], frame(0x77, 0, 0, &[0; 100])),
        ("continuations", &frame(HEADERS, 0, 1, GET), frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b")),
        ("empty continuations", &frame(HEADERS, 0, 1, GET), frame(CONTINUATION, 0, 1, &[])),
        ("resets of streams that are not", &[], frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
    ] {
        let (sent, _) = flood(&gateway, first, &frames).await;
        assert!(sent < MAX_FLOOD_BYTES / 2, "{name}: {sent} bytes");
    }
    assert_eq!(get(gateway.http, "a", "/").await.status, 200);
}

/// CVE-2024-27316: the header block is bounded, not only the list that comes out of it.
#[tokio::test]
async fn a_header_block_that_does_not_end_is_an_error() {
    let gateway = TestGateway::start(&Routes::default()).await;
    let (sent, code) =
        flood(&gateway, &frame(HEADERS, 0, 1, GET), &frame(CONTINUATION, 0, 1, &[0x82; 1_000])).await;
    // Most of it fills sockets.
    assert!(sent < 16 << 20, "{sent}");
    assert!(code.is_none_or(|code| code != 0), "{code:?}");
}

/// CVE-2023-44487, and streams that the gateway resets because their client breaks the rules.
#[tokio::test]
async fn streams_that_end_at_once_end_their_connection() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), limits()).await;
    for (name, ending) in [
        ("reset", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])),
        ("zero window update", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
    ] {
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = read.read_to_end(&mut all).await;
        });
        let mut opened = 0;
        for number in 0..100_000_u32 {
            let id = number * 2 + 1;
            let mut both = frame(HEADERS, END_HEADERS | 1, id, GET);
            let mut ending = ending.clone();
            ending[5..9].copy_from_slice(&id.to_be_bytes());
            both.extend(ending);
            if write.write_all(&both).await.is_err() {
                break;
            }
            opened = number;
        }
        assert!(opened < 50_000, "{name}: {opened} streams");
        timeout(Duration::from_secs(10), reader).await.unwrap().unwrap();
    }
    assert_eq!(get(gateway.http, "a", "/").await.status, 200);
}

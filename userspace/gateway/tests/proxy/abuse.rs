//! Clients that attack: smuggled requests, slow ones, large ones, too many of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use skep_gateway::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;
use crate::harness::{Http1, Routes, TestGateway, get, limits, raw};

#[tokio::test]
async fn a_smuggled_request_reaches_no_endpoint() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let post = "POST /received HTTP/1.1\r\nHost: a\r\n";
    for (attack, status, received) in [
        // Two lengths (RFC 9112, 6.1).
        (format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}Content-Length: 0\r\nContent-Length: 40\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}Content-Length: 0, 40\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}Content-Length: +5\r\n\r\nhello{hidden}"), 400, 0),
        (format!("{post}Content-Length: 0x5\r\n\r\nhello{hidden}"), 400, 0),
        (format!("{post}Content-Length : 5\r\n\r\nhello{hidden}"), 400, 0),
        (format!("{post}Content-Length: 99999999999999999999\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"), 400, 0),
        (format!("{post}X: a\0b\r\n\r\n"), 400, 0),
        (
            format!(
                "POST /received HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
            400,
            0,
        ),
        ("GET /received HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, 0),
        ("GET /received HTTP/1.1\r\n\r\n".to_owned(), 400, 0),
        ("GET /received HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400, 0),
        ("GET http://b/received HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, 0),
        ("GET /received /hidden HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, 0),
        ("GET /received HTTP/1.1 x\r\nHost: a\r\n\r\n".to_owned(), 400, 0),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(), 405, 0),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, 0),
    ] {
        let before = endpoint.count();
        let answer = raw(gateway.http, attack.as_bytes()).await;
        let answers = answer.lines().filter(|line| line.starts_with("HTTP/1.")).count();
        let wanted = format!(" {status} ");
        assert!(answer.get(8..13) == Some(wanted.as_str()), "{attack:?}: {answer}");
        assert_eq!(answers, 1, "{attack:?}: {answer}");
        assert!(!answer.contains("/hidden"), "{attack:?}: {answer}");
        assert_eq!(endpoint.count() - before, received, "{attack:?}");
    }
}

#[tokio::test]
async fn a_chunked_body_that_is_broken_ends_its_request() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in ["5\r\nhelloX\r\n0\r\n\r\n", "-1\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n", "5;\nhello"] {
        let answer = raw(gateway.http, format!("{head}{body}").as_bytes()).await;
        assert!(!answer.contains(" 200 "), "{body:?}: {answer}");
    }
}

fn impatient() -> Limits {
    Limits {
        head_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(1_000),
        body_timeout: Duration::from_millis(300),
        handshake_timeout: Duration::from_millis(300),
        ..limits()
    }
}

/// How long a connection lives on which a byte of this comes every 50 ms.
async fn life_of(gateway: &TestGateway, drip: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let (start, mut buffer) = (Instant::now(), [0; 1024]);
    for byte in drip.iter().cycle() {
        assert!(start.elapsed() < Duration::from_secs(10), "the connection does not end");
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut buffer)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            break;
        }
    }
    start.elapsed()
}

#[tokio::test]
async fn a_head_that_comes_slowly_ends_its_connection() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), impatient()).await;
    let drip = [b"GET / HTTP/1.1\r\nHost: a\r\n".as_slice(), &b"X: y\r\n".repeat(50)].concat();
    let life = life_of(&gateway, &drip).await;
    // The time of a head, whenever it began, and not twice that.
    assert!(life < Duration::from_millis(390), "{life:?}");
    assert_eq!(gateway.counter("abuses_total"), 1);
    assert_eq!(endpoint.count(), 0);
}

#[tokio::test]
async fn the_time_of_a_head_begins_with_its_first_byte() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), impatient()).await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let mut buffer = [0; 4096];
    // Silence before a head is no part of it, and a second head has its own time.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"Host: a\r\n\r\n").await.unwrap();
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200"));
    }
    let start = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    assert!((150..390).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

/// Only a length in the same head is a second one.
#[tokio::test]
async fn lengths_of_other_requests_are_no_conflict() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let chunked = "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n11\r\nContent-Length: 4\r\n0\r\n\r\n";
    let both = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab{chunked}");
    let answer = raw(gateway.http, both.as_bytes()).await;
    assert!(answer.matches("HTTP/1.1 200").count() == 2 && endpoint.count() == 2, "{answer}");
    assert!(answer.contains("\"bytes\":17"), "{answer}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_timeout() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), impatient()).await;
    let answer = raw(gateway.http, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nshort").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let gateway = TestGateway::start_with(&Routes::default(), impatient()).await;
    for address in [gateway.http, gateway.https] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 16])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let endpoint = Endpoint::start("a").await;
    let limits = Limits { max_body_bytes: Some(1_000), max_head_bytes: 16 << 10, ..limits() };
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), limits).await;
    let many = "X: y\r\n".repeat(200);
    let large = format!("Cookie: {}\r\n", "x".repeat(20 << 10));
    for headers in [many, large] {
        let answer =
            raw(gateway.http, format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let long =
        raw(gateway.http, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20 << 10)).as_bytes())
            .await;
    assert!(long.starts_with("HTTP/1.1 4"), "{long}");
    let post =
        |size| Request::post("/").header("host", "a").body(Full::new(Bytes::from(vec![b'x'; size]))).unwrap();
    let mut client = Http1::connect(gateway.http).await;
    assert_eq!(client.send(post(1_000)).await.unwrap().status, 200);
    assert_eq!(client.send(post(1_001)).await.unwrap().status, 413);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let chunked = raw(gateway.http, format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes()).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
}

#[tokio::test]
async fn one_address_has_a_bounded_number_of_connections() {
    let endpoint = Endpoint::start("a").await;
    let limits = Limits { max_connections: 10, max_connections_of_address: 5, ..limits() };
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), limits).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Http1::connect(gateway.http).await;
        assert_eq!(client.get("a", "/").await.unwrap().status, 200);
        clients.push(client);
    }
    assert_eq!(raw(gateway.http, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
    assert_eq!(gateway.counter("refused_connections_total"), 1);
    drop(clients);
    while gateway.counter("open_connections") > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(get(gateway.http, "a", "/").await.status, 200);
}

/// CVE-2023-44487: streams that are opened and reset at once.
#[tokio::test]
async fn streams_that_are_reset_at_once_end_their_connection() {
    let endpoint = Endpoint::start("a").await;
    let limits = Limits { max_aborted: 20, ..limits() };
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), limits).await;
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let attack = async {
        for _ in 0..10_000 {
            let Ok(mut ready) = client.ready().await else { return };
            let request = Request::get("http://a.com/?ms=1000").body(()).unwrap();
            let Ok((_, mut stream)) = ready.send_request(request, true) else { return };
            tokio::task::yield_now().await;
            stream.send_reset(h2::Reason::CANCEL);
            client = ready;
        }
        panic!("the connection does not end");
    };
    tokio::time::timeout(Duration::from_secs(30), attack).await.unwrap();
    drop(ended.await);
    assert_eq!(get(gateway.http, "a", "/").await.status, 200);
}

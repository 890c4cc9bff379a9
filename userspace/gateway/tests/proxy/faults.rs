//! Endpoints that close early, lie about length, stall, or answer before the body.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use skep_gateway::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;
use crate::harness::{Http1, Routes, TestGateway, get, limits, raw};

/// An endpoint that reads once, writes this, and closes.
async fn says(bytes: &'static [u8]) -> Endpoint {
    Endpoint::of(move |mut stream| async move {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(bytes).await;
    })
    .await
}

#[tokio::test]
async fn a_response_that_is_cut_is_not_taken_for_a_whole_one() {
    for cut in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ] {
        let endpoint = says(cut).await;
        let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
        assert!(Http1::connect(gateway.http).await.get("a", "/").await.is_err());
    }
}

#[tokio::test]
async fn an_endpoint_that_speaks_something_else_is_a_bad_gateway() {
    for bytes in [
        b"".as_slice(),
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let endpoint = says(bytes).await;
        let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
        assert_eq!(get(gateway.http, "a", "/").await.status, 502, "{}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn an_endpoint_that_stalls_is_waited_for_a_time_only() {
    let silent = Endpoint::of(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let limits = Limits { response_timeout: Duration::from_millis(200), ..limits() };
    let gateway = TestGateway::start_with(&Routes::to(&[silent.address]), limits).await;
    assert_eq!(get(gateway.http, "a", "/").await.status, 504);
    assert_eq!(gateway.counter("retries_total"), 0, "it may have received the request");
}

#[tokio::test]
async fn a_body_that_stalls_ends_its_connection() {
    let stalls = Endpoint::of(|mut stream: TcpStream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort").await;
        std::future::pending().await
    })
    .await;
    let limits = Limits { stream_timeout: Duration::from_millis(200), ..limits() };
    let gateway = TestGateway::start_with(&Routes::to(&[stalls.address]), limits).await;
    assert!(Http1::connect(gateway.http).await.get("a", "/").await.is_err());
}

/// The time for a response begins when the body is there.
#[tokio::test]
async fn a_long_upload_is_no_stall() {
    let endpoint = Endpoint::start("a").await;
    let limits = Limits { response_timeout: Duration::from_millis(300), ..limits() };
    let gateway = TestGateway::start_with(&Routes::to(&[endpoint.address]), limits).await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"bytes\":12"), "{answer}");
}

#[tokio::test]
async fn an_answer_before_the_body_reaches_the_client() {
    let early = says(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
    let gateway = TestGateway::start(&Routes::to(&[early.address])).await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nxxxx";
    let answer = raw(gateway.http, head).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.ends_with("no"), "{answer}");
}

#[tokio::test]
async fn a_request_with_a_body_is_not_sent_twice() {
    let endpoint = says(b"").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let request = Request::post("/").header("host", "a").body(Full::new(Bytes::from_static(b"x"))).unwrap();
    assert_eq!(Http1::connect(gateway.http).await.send(request).await.unwrap().status, 502);
    assert_eq!(gateway.counter("retries_total"), 0);
}

/// What an endpoint sends after a response is never taken for the next one.
#[tokio::test]
async fn a_response_that_hides_another_one_poisons_no_request() {
    let hidden = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden";
    for first in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{hidden}"),
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{hidden}"
        ),
        format!("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{hidden}"),
        format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n{hidden}"),
    ] {
        let bytes: &'static [u8] = first.clone().leak().as_bytes();
        let endpoint = Endpoint::of(move |mut stream: TcpStream| async move {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                let _ = stream.write_all(bytes).await;
            }
        })
        .await;
        let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
        let mut client = Http1::connect(gateway.http).await;
        for _ in 0..5 {
            if let Ok(answer) = client.get("a", "/").await {
                assert!(answer.text != "hidden", "{first:?}");
            }
        }
    }
}

/// Interim responses are not the answer, and not without end.
#[tokio::test]
async fn interim_responses_are_passed_over() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    for (before, status) in [(interim.to_owned(), 200), (interim.repeat(20), 502)] {
        let endpoint = says(format!("{before}{answer}").leak().as_bytes()).await;
        let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
        assert_eq!(get(gateway.http, "a", "/").await.status, status);
    }
}

#[tokio::test]
async fn a_response_whose_end_is_not_clear_is_a_bad_gateway() {
    for head in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: +2",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nX: a\r\n b",
    ] {
        let endpoint = says(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nok").leak().as_bytes()).await;
        let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
        assert_eq!(get(gateway.http, "a", "/").await.status, 502, "{head}");
    }
}

/// The response comes and goes on while the request's body is still being sent.
#[tokio::test]
async fn a_response_and_the_body_of_its_request_go_on_together() {
    let echo = Endpoint::of(|mut stream: TcpStream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let mut buffer = [0; 4096];
        // What comes is in chunks already.
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    })
    .await;
    let gateway = TestGateway::start(&Routes::to(&[echo.address])).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    for piece in ["one", "two", "three"] {
        client.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        while !String::from_utf8_lossy(&all).contains(piece) {
            assert!(client.read_buf(&mut all).await.unwrap() > 0, "{}", String::from_utf8_lossy(&all));
        }
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    while !all.ends_with(b"0\r\n\r\n") {
        assert!(client.read_buf(&mut all).await.unwrap() > 0, "{}", String::from_utf8_lossy(&all));
    }
}

/// A request of a kept connection that its endpoint closed meanwhile is sent on another one, also with a body.
#[tokio::test]
async fn a_body_is_not_lost_on_a_connection_that_was_closed() {
    let (closed_in, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let once = Endpoint::of(move |mut stream: TcpStream| {
        let closed = closed_in.clone();
        async move {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            drop(stream);
            closed.send(()).unwrap();
        }
    })
    .await;
    let gateway = TestGateway::start(&Routes::to(&[once.address])).await;
    let mut client = Http1::connect(gateway.http).await;
    for _ in 0..10 {
        let request =
            Request::post("/").header("host", "a").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        assert_eq!(client.send(request).await.unwrap().status, 200);
        closed.recv().await.unwrap();
    }
}

/// Large bodies go both ways, whatever their length is said to be.
#[tokio::test]
async fn large_bodies_pass_as_they_are() {
    let endpoint = Endpoint::of(|mut stream: TcpStream| async move {
        let mut request = Vec::new();
        while !request.windows(9).any(|end| end == b"the end\r\n") {
            if stream.read_buf(&mut request).await.unwrap() == 0 {
                return;
            }
        }
        let body = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.len() - body);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&request[body..]).await.unwrap();
    })
    .await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let body: String =
        (0..300_000).map(|number| format!("{number}\n")).chain(["the end\r\n".to_owned()]).collect();
    let request = Request::post("/").header("host", "a").body(Full::new(Bytes::from(body.clone()))).unwrap();
    let answer = Http1::connect(gateway.http).await.send(request).await.unwrap();
    assert!(answer.text == body, "{} bytes of {}", answer.text.len(), body.len());
}

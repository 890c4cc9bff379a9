//! TLS, HTTP/2, WebSocket, trailers.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode, Version};
use http_body_util::Full;
use skep_gateway::config::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::endpoint::{Endpoint, echoed, field};
use crate::harness::{Routes, TIMEOUT, TestGateway, certificate, http_2, raw, read, tls};

fn request(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

#[tokio::test]
async fn the_certificate_follows_the_name() {
    let endpoint = Endpoint::start("a").await;
    let ((a, a_pem), (b, b_pem), (c, _)) =
        (certificate("a.com"), certificate("x.b.com"), certificate("a.com"));
    let routes = Routes::to(&[endpoint.address]);
    let routes = routes.certificate("a.com", &a).certificate("*.b.com", &b);
    let gateway = TestGateway::start(&routes).await;
    for (name, pem) in [("a.com", &a_pem), ("x.b.com", &b_pem)] {
        let mut client = http_2(tls(gateway.https, name, pem, b"h2").await.unwrap()).await;
        let response = client.send_request(request(&format!("https://{name}/"))).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        let answer = read(response).await.unwrap();
        assert_eq!(
            (field(&answer.text, "version"), echoed(&answer.text, "host")),
            ("HTTP/1.1".into(), Some(name.into()))
        );
        assert_eq!(echoed(&answer.text, "x-forwarded-proto").as_deref(), Some("https"));
    }
    assert!(tls(gateway.https, "other.com", &a_pem, b"h2").await.is_err());
    assert!(gateway.counter("failed_handshakes_total") > 0);
    // A renewed certificate is in force for the next handshake.
    gateway.gateway.apply(&Routes::to(&[endpoint.address]).certificate("a.com", &c).config());
    assert!(tls(gateway.https, "a.com", &a_pem, b"h2").await.is_err());
}

#[tokio::test]
async fn a_connection_serves_only_hosts_of_its_certificate() {
    let endpoint = Endpoint::start("a").await;
    let ((a, pem), (b, _)) = (certificate("a.com"), certificate("b.com"));
    let routes = Routes::to(&[endpoint.address]);
    let routes = routes.certificate("a.com", &a).certificate("b.com", &b);
    let gateway = TestGateway::start(&routes).await;
    let mut client = http_2(tls(gateway.https, "a.com", &pem, b"h2").await.unwrap()).await;
    for (host, status) in [("a.com", 200), ("b.com", 421), ("A.com", 200), ("c.com", 421)] {
        let response = client.send_request(request(&format!("https://{host}/"))).await.unwrap();
        assert_eq!(response.status(), status, "{host}");
    }
    assert_eq!(endpoint.count(), 2);
}

#[tokio::test]
async fn calls_of_grpc_keep_their_trailers() {
    let endpoint = Endpoint::start("a").await;
    for protocol in [Protocol::H2c, Protocol::Http1] {
        let gateway =
            TestGateway::start(&Routes::default().rule("", "/", protocol, &[endpoint.address])).await;
        let mut client = http_2(TcpStream::connect(gateway.http).await.unwrap()).await;
        let call = Request::post("http://a.com/trailers")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer =
            read(client.send_request(call.body(Full::default()).unwrap()).await.unwrap()).await.unwrap();
        assert_eq!(
            (answer.status, &*answer.text, &answer.trailers["grpc-status"]),
            (StatusCode::OK, "onetwo", &"0".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let endpoint = Endpoint::start("a").await;
    let gateway =
        TestGateway::start(&Routes::default().rule("", "/", Protocol::H2c, &[endpoint.address])).await;
    let client = http_2(TcpStream::connect(gateway.http).await.unwrap()).await;
    let calls = (0..300).map(|_| {
        let mut client = client.clone();
        async move {
            read(client.send_request(request("http://a.com/?ms=20")).await?).await.map(|answer| answer.status)
        }
    });
    for status in futures::future::join_all(calls).await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(endpoint.count(), 300);
}

#[tokio::test]
async fn streams_of_a_connection_over_tls_share_its_writes_and_lose_nothing() {
    let endpoint = Endpoint::start("a").await;
    let (a, pem) = certificate("a.com");
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address]).certificate("a.com", &a)).await;
    let client = http_2(tls(gateway.https, "a.com", &pem, b"h2").await.unwrap()).await;
    // Bodies of less and of more than a record of TLS, and of more than a window of a client.
    let calls = (0..100_usize).map(|at| {
        let mut client = client.clone();
        async move {
            let body = vec![b'a' + (at % 26) as u8; [10, 1_024, 20_000, 200_000][at % 4]];
            let call = Request::post("https://a.com/echo").body(Full::from(body.clone())).unwrap();
            let answer = read(client.send_request(call).await.unwrap()).await.unwrap();
            assert!(answer.text.as_bytes() == body, "{} of {} bytes", answer.text.len(), body.len());
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(endpoint.count(), 100);
}

#[tokio::test]
async fn a_connection_that_agreed_on_http_2_speaks_nothing_else() {
    let endpoint = Endpoint::start("a").await;
    let (a, pem) = certificate("a.com");
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address]).certificate("a.com", &a)).await;
    let mut stream = tls(gateway.https, "a.com", &pem, b"h2").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The end may be an error.
    let _ = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(endpoint.count(), 0);
}

#[tokio::test]
async fn a_web_socket_passes_and_outlives_a_change() {
    let echo = Endpoint::of(|stream| async {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                break;
            }
        }
    })
    .await;
    let gateway = TestGateway::start(&Routes::to(&[echo.address])).await;
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async("ws://a.com/chat", stream).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        gateway.gateway.apply(&Routes::default().config());
    }
    let big = Message::binary(vec![7; 1 << 20]);
    socket.send(big.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), big);
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_switch_to_h2c_is_not_passed_on() {
    let endpoint = Endpoint::start("a").await;
    let gateway = TestGateway::start(&Routes::to(&[endpoint.address])).await;
    let answer = raw(
        gateway.http,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let json = &answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()];
    assert_eq!((echoed(json, "upgrade"), echoed(json, "http2-settings")), (None, None));
}

//! Changes of the configuration under load, and endpoints that come and go: no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::endpoint::{Endpoint, field};
use crate::harness::{Http1, Routes, TestGateway, get};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_no_connection_ends_while_the_configuration_changes() {
    let (a, b) = (Endpoint::start("a").await, Endpoint::start("b").await);
    let gateway = TestGateway::start(&Routes::to(&[a.address])).await;
    let (ends, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..8 {
        let (ends, requests, address) = (ends.clone(), requests.clone(), gateway.http);
        clients.spawn(async move {
            let mut client = Http1::connect(address).await;
            while !ends.load(Ordering::Relaxed) {
                let path = if number % 4 == 0 { "/?ms=5" } else { "/" };
                assert_eq!(client.get("a.com", path).await.unwrap().status, StatusCode::OK);
                requests.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for round in 0..150 {
        let endpoints = [vec![a.address], vec![b.address], vec![a.address, b.address]];
        gateway.gateway.apply(&Routes::to(&endpoints[round % 3]).config());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ends.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert!(requests.load(Ordering::Relaxed) > 100 && a.count() > 0 && b.count() > 0);
    assert_eq!(gateway.counter("connections_total"), 8);
    assert_eq!(
        (gateway.counter("upstream_failures_total"), gateway.counter("configurations_total")),
        (0, 151)
    );
}

#[tokio::test]
async fn an_endpoint_that_is_removed_finishes_its_requests() {
    let (a, b) = (Endpoint::start("a").await, Endpoint::start("b").await);
    let gateway = TestGateway::start(&Routes::to(&[a.address])).await;
    let address = gateway.http;
    let slow = tokio::spawn(async move { get(address, "a.com", "/?ms=500").await });
    while a.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.gateway.apply(&Routes::to(&[b.address]).config());
    assert_eq!(field(&get(gateway.http, "a.com", "/").await.text, "server"), "b");
    assert_eq!(field(&slow.await.unwrap().text, "server"), "a");
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_no_request() {
    let a = Endpoint::start("a").await;
    let down = {
        let gone = Endpoint::start("gone").await;
        gone.address
    };
    let gateway = TestGateway::start(&Routes::to(&[down, a.address])).await;
    let mut client = Http1::connect(gateway.http).await;
    for _ in 0..40 {
        assert_eq!(client.get("a.com", "/").await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(gateway.counter("ejections_total"), 1);
    assert_eq!(gateway.counter("upstream_failures_total"), 3, "then it is left alone");
}

/// An endpoint may close a connection that is kept at any time: before the request, or when it has read it.
#[tokio::test]
async fn a_kept_connection_that_the_endpoint_closes_costs_no_request() {
    let forgetful = Endpoint::of(|mut stream| async move {
        let mut buffer = [0; 1024];
        for request in 0..2 {
            if stream.read(&mut buffer).await.unwrap_or_default() == 0 || request == 1 {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let gateway = TestGateway::start(&Routes::to(&[forgetful.address])).await;
    let mut client = Http1::connect(gateway.http).await;
    for _ in 0..20 {
        let answer = client.get("a.com", "/").await.unwrap();
        assert_eq!((answer.status, &*answer.text), (StatusCode::OK, "ok"));
    }
    assert!(gateway.counter("retries_total") > 0);
}

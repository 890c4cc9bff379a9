//! How much endpoints get: of requests at once, and after they joined others.

use std::time::{Duration, Instant};

use http::StatusCode;
use skep_gateway::config::EndpointDemand;

use crate::endpoint::Endpoint;
use crate::harness::{Http1, Routes, TestGateway, get};

#[tokio::test]
async fn an_endpoint_has_a_bounded_number_of_requests_at_once() {
    let (a, b) = (Endpoint::start("a").await, Endpoint::start("b").await);
    let demand = EndpointDemand { at_once: Some(2), ..EndpointDemand::default() };
    let gateway = TestGateway::start(&Routes::to(&[a.address, b.address]).demand(demand)).await;
    let requests = (0..40).map(|_| get(gateway.http, "a.com", "/?ms=1000"));
    let answers = futures::future::join_all(requests).await;
    let served = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert_eq!((served + refused, a.count() + b.count()), (40, served));
    // What is refused did not fail an endpoint, and the next request has room.
    assert!((1..40).contains(&served), "{served}");
    assert_eq!(gateway.counter("upstream_failures_total"), 0);
    assert_eq!(get(gateway.http, "a.com", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_gets_the_endpoint_that_has_room() {
    let mut endpoints = Vec::new();
    for name in ["0", "1", "2", "3", "4", "5", "6", "7"] {
        endpoints.push(Endpoint::start(name).await);
    }
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let demand = EndpointDemand { at_once: Some(1), ..EndpointDemand::default() };
    let gateway = TestGateway::start(&Routes::to(&addresses).demand(demand)).await;
    let mut standing = Vec::new();
    for at in 0..8 {
        standing.push(tokio::spawn(get(gateway.http, "a.com", "/?ms=3000")));
        let end = Instant::now() + Duration::from_secs(20);
        while endpoints.iter().map(Endpoint::count).sum::<usize>() <= at {
            assert!(Instant::now() < end, "request {at} got no endpoint");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for request in standing {
        assert_eq!(request.await.unwrap().status, StatusCode::OK);
    }
    assert!(endpoints.iter().all(|endpoint| endpoint.count() == 1));
}

#[tokio::test]
async fn an_endpoint_that_joins_others_gets_a_part_that_grows() {
    let (a, b) = (Endpoint::start("a").await, Endpoint::start("b").await);
    let demand = EndpointDemand { slow_start: Duration::from_secs(30), ..EndpointDemand::default() };
    let routes = |endpoints: &[_]| Routes::to(endpoints).demand(demand);
    let gateway = TestGateway::start(&routes(&[a.address])).await;
    assert_eq!(get(gateway.http, "a.com", "/").await.status, StatusCode::OK);
    gateway.gateway.apply(&routes(&[a.address, b.address]).config());
    let begun = Instant::now();
    let mut client = Http1::connect(gateway.http).await;
    for _ in 0..200 {
        client.get("a.com", "/").await.unwrap();
    }
    // In this time its part is a third at most.
    if begun.elapsed() < Duration::from_secs(10) {
        assert!((1..80).contains(&b.count()), "{} of 200", b.count());
    }
    // All that are there from the beginning have equal parts.
    let (c, d) = (Endpoint::start("c").await, Endpoint::start("d").await);
    let gateway = TestGateway::start(&routes(&[c.address, d.address])).await;
    let mut client = Http1::connect(gateway.http).await;
    for _ in 0..100 {
        client.get("a.com", "/").await.unwrap();
    }
    assert_eq!((c.count(), d.count()), (50, 50));
}

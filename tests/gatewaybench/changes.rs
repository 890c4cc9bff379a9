//! Changes of routes through the API: API server, watch, gateway and data plane in one process, with wrk beside it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use http_body_util::Empty;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use skep_gateway::ingress::Ports;
use skep_gateway::{Bound, Gateway, Limits};
use skep_network::{GatewaySubscriptions, Informers, NodeGateway};
use skep_tests::api_server::TestApiServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{load, objects};

/// Writes under way at once.
const WRITERS: usize = 16;
const LIMIT: Duration = Duration::from_secs(30);
const LOAD_SECONDS: u32 = 4;

/// What a phase of changes saw.
pub(crate) struct Changes {
    /// Milliseconds from the API's answer to a create until its route answers.
    pub(crate) write_to_route: Vec<f64>,
    pub(crate) per_second: f64,
    /// Of the load while routes changed.
    pub(crate) requests: f64,
    pub(crate) failed: f64,
    pub(crate) broken: f64,
}

pub(crate) fn measure(upstream: SocketAddr, routes: usize, new: usize, changes: usize) -> Result<Changes> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let world = World::start(upstream, routes).await?;
        let mut write_to_route = Vec::new();
        for number in routes..routes + new {
            write_to_route.push(world.create(number).await?);
        }
        world.change_under_load(routes, changes, write_to_route).await
    })
}

struct World {
    client: kube::Client,
    at: SocketAddr,
    _api: TestApiServer,
    _stop: DropGuard,
}

impl World {
    async fn start(upstream: SocketAddr, routes: usize) -> Result<World> {
        let api = TestApiServer::start().await?;
        let client = api.client();
        let [service, slice] = objects::service(upstream);
        let (service, slice): (Service, EndpointSlice) =
            (serde_json::from_value(service)?, serde_json::from_value(slice)?);
        Api::namespaced(client.clone(), objects::NAMESPACE).create(&PostParams::default(), &service).await?;
        Api::namespaced(client.clone(), objects::NAMESPACE).create(&PostParams::default(), &slice).await?;
        let class: IngressClass = serde_json::from_value(objects::class())?;
        // A server that made it itself has it.
        let _ = Api::all(client.clone()).create(&PostParams::default(), &class).await;
        let create = |number| create(&client, number);
        let mut creating = futures::stream::iter(0..routes).map(create).buffer_unordered(WRITERS);
        while let Some(created) = creating.next().await {
            created?;
        }
        drop(creating);
        let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
        let stop = CancellationToken::new();
        start_gateway(&client, at, &stop);
        let world = World { client, at, _api: api, _stop: stop.drop_guard() };
        world.until_it_answers(0).await?;
        Ok(world)
    }

    /// Milliseconds until the route of a new Ingress answers.
    async fn create(&self, number: usize) -> Result<f64> {
        create(&self.client, number).await?;
        let written = Instant::now();
        self.until_it_answers(number).await?;
        Ok(written.elapsed().as_secs_f64() * 1e3)
    }

    async fn until_it_answers(&self, number: usize) -> Result<()> {
        let begun = Instant::now();
        let mut sender: Option<SendRequest<Empty<bytes::Bytes>>> = None;
        loop {
            if let Some(connection) = &mut sender {
                if connection.ready().await.is_err() {
                    // The gateway may close a connection after an answer.
                    sender = None;
                    continue;
                }
                let request = http::Request::get("/").header("host", objects::host(number));
                let response = connection.send_request(request.body(Empty::new())?).await?;
                if response.status() == 200 {
                    return Ok(());
                }
                http_body_util::BodyExt::collect(response.into_body()).await?;
            } else if let Ok(stream) = TcpStream::connect(self.at).await {
                let (connected, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender = Some(connected);
            }
            ensure!(begun.elapsed() < LIMIT, "{} has no route", objects::host(number));
        }
    }

    /// Changes rules of Ingresses, each in turn, while the first one has all the load.
    async fn change_under_load(
        &self,
        routes: usize,
        changes: usize,
        write_to_route: Vec<f64>,
    ) -> Result<Changes> {
        let (ends, at) = (AtomicBool::new(false), self.at);
        let loading = || -> Result<Vec<load::Outcome>> {
            let mut outcomes = Vec::new();
            while outcomes.is_empty() || !ends.load(Ordering::Relaxed) {
                outcomes.push(load::keep_alive(at, &objects::host(0), LOAD_SECONDS)?);
            }
            Ok(outcomes)
        };
        let (outcomes, took) = std::thread::scope(|scope| {
            let load = scope.spawn(loading);
            let begun = Instant::now();
            let changed = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(self.change(routes, changes))
            });
            let took = begun.elapsed();
            ends.store(true, Ordering::Relaxed);
            let outcomes = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
            changed.and(outcomes).map(|outcomes| (outcomes, took))
        })?;
        let sum = |of: fn(&load::Outcome) -> f64| outcomes.iter().map(of).sum();
        Ok(Changes {
            write_to_route,
            per_second: changes as f64 / took.as_secs_f64(),
            requests: sum(|outcome| outcome.requests),
            failed: sum(|outcome| outcome.failed),
            broken: sum(|outcome| outcome.broken),
        })
    }

    async fn change(&self, routes: usize, changes: usize) -> Result<()> {
        let ingresses: Api<Ingress> = Api::namespaced(self.client.clone(), objects::NAMESPACE);
        let change = |at: usize| {
            let ingresses = ingresses.clone();
            async move {
                let number = 1 + at % routes.saturating_sub(1).max(1);
                let path = format!("/{at}");
                let object = objects::ingress(number, &path, false);
                let patch = Patch::Merge(json!({"spec": object["spec"]}));
                let changed =
                    ingresses.patch(&format!("app-{number}"), &PatchParams::default(), &patch).await;
                changed.map(drop).with_context(|| format!("change app-{number}"))
            }
        };
        let mut changing = futures::stream::iter(0..changes).map(change).buffer_unordered(WRITERS);
        while let Some(changed) = changing.next().await {
            changed?;
        }
        Ok(())
    }
}

async fn create(client: &kube::Client, number: usize) -> Result<()> {
    let mut object = objects::ingress(number, "/", false);
    object["metadata"].as_object_mut().context("no metadata")?.remove("creationTimestamp");
    let ingress: Ingress = serde_json::from_value(object)?;
    Api::namespaced(client.clone(), objects::NAMESPACE).create(&PostParams::default(), &ingress).await?;
    Ok(())
}

fn start_gateway(client: &kube::Client, at: SocketAddr, stop: &CancellationToken) {
    let gateway = Gateway::new(Limits::of_descriptors(65_536), None);
    let (bound_in, bound) = watch::channel(Bound::default());
    let (running, stopped, address): (_, _, IpAddr) = (gateway.clone(), stop.clone(), at.ip());
    tokio::spawn(async move { running.run(&[address], bound_in, stopped).await });
    let mut informers = Informers::default();
    let subscriptions = GatewaySubscriptions::new(&mut informers);
    let ports = Ports { http: Some(at.port()), https: None };
    let of_node = NodeGateway { node: "bench".to_owned(), gateway, ports, subscriptions, bound };
    tokio::spawn(of_node.run(client.clone(), client.clone(), stop.clone()));
    tokio::spawn(informers.run(client.clone(), stop.clone()));
}

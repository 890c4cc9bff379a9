//! The time from a Service's write to its answer: API server, watch, index and DNS in one process, all Services written through
//! the API.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{Api, PostParams};
use serde_json::json;
use skep_dns::{Dns, Settings, Sockets};
use skep_network::{DnsSubscriptions, Informers};
use skep_tests::api_server::TestApiServer;
use tokio_util::sync::CancellationToken;

use crate::names::{self, DOMAIN};

/// Creates under way at once.
const WRITERS: usize = 16;
const LIMIT: Duration = Duration::from_secs(10);

/// Milliseconds for each of so many writes, with so many Services before them.
pub(crate) fn measure(at: SocketAddr, services: u32, writes: u32) -> Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let cidrs = vec!["10.96.0.0/14".parse()?];
        let api = TestApiServer::start_with(|config| config.services.cidrs = cidrs).await?;
        let client = api.client();
        create_all(&client, services).await?;
        let stop = CancellationToken::new();
        let mut informers = Informers::default();
        let subscriptions = DnsSubscriptions::new(&mut informers, "node");
        let dns = Dns::new(
            Settings::new(DOMAIN)?,
            skep_dns::tls::client_config()?,
            tokio::runtime::Handle::current(),
        );
        let _updates = subscriptions.forward(&dns, &stop);
        let informing = tokio::spawn(informers.run(client.clone(), stop.clone()));
        let _serving = dns.serve(Sockets::bind([at])?)?;
        // The lists of a new agent are another measure than its watches.
        if services > 0 {
            let asking = client_of(at)?;
            tokio::task::block_in_place(|| until_answered(&asking, &full_name("app-0")))?;
        }
        let mut times = Vec::new();
        for number in 0..writes {
            let name = format!("new-{number}");
            let asking = client_of(at)?;
            create_service(&client, &names::namespace(0), &name).await?;
            let written = Instant::now();
            tokio::task::block_in_place(|| until_answered(&asking, &full_name(&name)))?;
            times.push(written.elapsed().as_secs_f64() * 1e3);
        }
        stop.cancel();
        informing.await?;
        Ok(times)
    })
}

fn client_of(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// The name of a Service of the first namespace.
fn full_name(service: &str) -> String {
    format!("{service}.{}.svc.{DOMAIN}.", names::namespace(0))
}

async fn create_all(client: &kube::Client, services: u32) -> Result<()> {
    let namespaces: std::collections::BTreeSet<String> = (0..services.max(1)).map(names::namespace).collect();
    for name in namespaces {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    }
    let create = |number: u32| async move {
        create_service(client, &names::namespace(number), &format!("app-{number}")).await
    };
    let mut creating = futures::stream::iter(0..services).map(create).buffer_unordered(WRITERS);
    while let Some(created) = creating.next().await {
        created?;
    }
    Ok(())
}

async fn create_service(client: &kube::Client, namespace: &str, name: &str) -> Result<()> {
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    let service: Service = serde_json::from_value(service)?;
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &service).await?;
    Ok(())
}

/// Asks until the name has an address.
fn until_answered(socket: &UdpSocket, name: &str) -> Result<()> {
    let begun = Instant::now();
    let mut buffer = [0; 2048];
    for id in 0.. {
        let mut question = Message::new(id, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
        socket.send(&question.to_vec()?)?;
        let length = socket.recv(&mut buffer)?;
        let answer = Message::from_vec(buffer.get(..length).context("a length")?)?;
        if answer.metadata.response_code == ResponseCode::NoError && !answer.answers.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < LIMIT, "{name} has no address: {answer}");
    }
    Ok(())
}

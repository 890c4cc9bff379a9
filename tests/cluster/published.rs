//! The application of `examples/ingress.yaml` and `examples/gateway.yaml` from outside of the cluster: by Ingress, by an HTTPRoute with
//! TLS and by a TCPRoute at the Gateway's own address. No request fails before, during and after rolling updates, and the flow log names
//! the route of each connection to a pod.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use skep_tests::api_server::Authority;
use xtask::cluster::kubectl::{Kubectl, Watch, condition, text};

use crate::fixture::{NODES, Space, shared};

const HOST: &str = "hello.example";
const POOL: &str = "published";
/// Of one request, and of each step of the test.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const STEP_TIMEOUT: Duration = Duration::from_secs(90);
const UPDATES: usize = 2;
/// Of each client in each phase.
const MIN_REQUESTS: usize = 30;
/// As the flow log names them.
const ROUTES: [&str; 3] = ["ingress/shop/hello", "httproute/shop/hello", "tcproute/shop/hello"];
const PAUSE: Duration = Duration::from_millis(10);

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// One way to the application.
struct Client {
    name: &'static str,
    at: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    /// One connection has all requests; otherwise each has its own.
    keeps: bool,
    connection: Option<BufReader<Box<dyn Stream>>>,
}

impl Client {
    fn new(name: &'static str, at: SocketAddr, tls: Option<&Arc<ClientConfig>>, keeps: bool) -> Client {
        Client { name, at, tls: tls.cloned(), keeps, connection: None }
    }

    fn connect(&self) -> Result<BufReader<Box<dyn Stream>>> {
        let stream = TcpStream::connect_timeout(&self.at, REQUEST_TIMEOUT)?;
        stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
        stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some(config) => {
                let session = ClientConnection::new(config.clone(), ServerName::try_from(HOST)?)?;
                Box::new(StreamOwned::new(session, stream))
            }
            None => Box::new(stream),
        };
        Ok(BufReader::new(stream))
    }

    /// The pod that answered.
    fn get(&mut self) -> Result<String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let kept = if self.keeps { "keep-alive" } else { "close" };
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: {kept}\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut length) = (String::new(), None);
        connection.read_line(&mut line)?;
        let status = line.split_whitespace().nth(1).map(str::to_owned);
        ensure!(status.as_deref() == Some("200"), "the answer is {line:?}");
        while !line.trim().is_empty() {
            line.clear();
            ensure!(connection.read_line(&mut line)? > 0, "the head is cut");
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let mut body = vec![0; length.context("a body without a length")?];
        connection.read_exact(&mut body)?;
        self.connection = self.keeps.then_some(connection);
        let body = String::from_utf8(body)?;
        body.split_whitespace().next().map(str::to_owned).context("no pod in the answer")
    }

    fn until_it_is_served(&mut self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.get() {
            let name = self.name;
            ensure!(begun.elapsed() < STEP_TIMEOUT, "{name} at {} is not served: {error:#}", self.at);
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// What clients got since the phase began.
#[derive(Default)]
struct Answers {
    /// By client.
    requests: Vec<usize>,
    /// Clients that a pod answered, with the pod.
    pods: BTreeSet<(usize, String)>,
}

#[derive(Default)]
struct Load {
    answers: Mutex<Answers>,
    failures: Mutex<Vec<String>>,
    /// More than 0: clients end.
    ends: AtomicUsize,
}

impl Load {
    fn run(&self, number: usize, client: &mut Client) {
        while self.ends.load(Ordering::Relaxed) == 0 {
            match client.get() {
                Ok(pod) => {
                    let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers.requests[number] += 1;
                    answers.pods.insert((number, pod));
                }
                Err(error) => {
                    let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.push(format!("{}: {error:#}", client.name));
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn begin_phase(&self, clients: usize) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers = Answers { requests: vec![0; clients], pods: BTreeSet::new() };
    }

    /// Waits until each client had its requests, and answers of a pod that is not one of `old`.
    fn phase_ends(&self, phase: &str, clients: usize, old: &BTreeSet<String>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ensure!(failures.is_empty(), "{phase}: {} requests failed: {failures:.1000?}", failures.len());
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let has_new =
                |client| answers.pods.iter().any(|(number, pod)| *number == client && !old.contains(pod));
            if answers.requests.iter().all(|count| *count >= MIN_REQUESTS) && (0..clients).all(has_new) {
                return Ok(());
            }
            ensure!(begun.elapsed() < STEP_TIMEOUT, "{phase}: {:?} of {:?}", answers.requests, answers.pods);
            drop(answers);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Ends the clients when dropped.
struct Ending<'a>(&'a Load);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ends.store(1, Ordering::Relaxed);
    }
}

/// The pool, deleted when dropped.
struct Pool<'a>(&'a Kubectl);

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&["delete", "loadbalancerpool", POOL, "--ignore-not-found"]);
    }
}

#[test]
fn no_request_fails_while_a_published_application_is_updated() -> Result<()> {
    let shared = shared()?;
    let (kubectl, layout) = (&shared.cluster.kubectl, &shared.cluster.layout);
    let space = Space::new(kubectl, "shop")?;
    // Addresses on the nodes' link, where this machine asks for them.
    let [a, b, c, _] = layout.gateway_addr().octets();
    let pool = json!({
        "apiVersion": "skep.io/v1alpha1", "kind": "LoadBalancerPool", "metadata": {"name": POOL},
        "spec": {"cidrs": [format!("{a}.{b}.{c}.224/28")]},
    });
    let _pool = Pool(kubectl);
    kubectl.apply_text(&pool.to_string())?;
    let tls = certificate(&space)?;
    for manifest in ["ingress.yaml", "gateway.yaml"] {
        kubectl.apply(&xtask::workspace().join("examples").join(manifest))?;
    }
    space.rolled_out("hello")?;
    let gateway = address_of_gateway(kubectl)?;
    let is_of_pool =
        matches!(gateway, IpAddr::V4(ip) if ip.octets()[..3] == [a, b, c] && ip.octets()[3] >= 224);
    ensure!(is_of_pool, "the Gateway's address is {gateway}");
    let node = |index| SocketAddr::from((layout.node(index).addr, 443));
    let mut clients = [
        Client::new("Ingress", node(1), Some(&tls), false),
        Client::new("Ingress, one connection", node(2), Some(&tls), true),
        Client::new("HTTPRoute", (gateway, 443).into(), Some(&tls), false),
        Client::new("HTTPRoute, one connection", (gateway, 443).into(), Some(&tls), true),
        Client::new("TCPRoute", (gateway, 8080).into(), None, false),
    ];
    for client in &mut clients {
        client.until_it_is_served()?;
    }
    nodes_say_where_they_listen(kubectl)?;
    let flows: Vec<Watch> =
        (1..=NODES).map(|index| follow_flows(kubectl, &layout.node(index).name)).collect::<Result<_>>()?;
    let (load, count) = (&Load::default(), clients.len());
    std::thread::scope(|scope| {
        let _ending = Ending(load);
        load.begin_phase(count);
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || load.run(number, client));
        }
        load.phase_ends("before the updates", count, &BTreeSet::new())?;
        for update in 1..=UPDATES {
            let old = pods(&space)?;
            load.begin_phase(count);
            space.run(&["rollout", "restart", "deployment/hello"])?;
            space.rolled_out("hello")?;
            load.phase_ends(&format!("update {update}"), count, &old)?;
        }
        load.begin_phase(count);
        load.phase_ends("after the updates", count, &BTreeSet::new())
    })?;
    each_route_is_named(&flows)
}

fn follow_flows(kubectl: &Kubectl, node: &str) -> Result<Watch> {
    let path = skep_api::flow_log::path(node, Some("shop"));
    kubectl.follow(&["get", "--raw", &format!("{path}?follow=true")])
}

fn each_route_is_named(flows: &[Watch]) -> Result<()> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut missing = BTreeSet::from(ROUTES);
    for of_node in flows {
        while let Some(record) = of_node.next(deadline).filter(|_| !missing.is_empty()) {
            missing.remove(text(&record, "/route"));
        }
    }
    ensure!(missing.is_empty(), "routes that the flow log does not name: {missing:?}");
    Ok(())
}

/// Makes the Secret of the examples; what trusts its certificate.
fn certificate(space: &Space<'_>) -> Result<Arc<ClientConfig>> {
    let authority = Authority::new()?;
    let pem = authority.issue_for("hello", "shop", HOST)?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "hello-tls", "namespace": "NAMESPACE"},
        "stringData": {"tls.crt": pem.certificate, "tls.key": pem.key},
    });
    space.apply(&secret.to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The address that the Gateway has when its listeners are open.
fn address_of_gateway(kubectl: &Kubectl) -> Result<IpAddr> {
    let args = ["gateways", "--namespace=shop", "--field-selector=metadata.name=hello"];
    let address = kubectl.wait(&args, STEP_TIMEOUT, |found| {
        let gateway = found.iter().find(|gateway| condition(gateway, "Programmed"))?;
        Some(text(gateway, "/status/addresses/0/value").to_owned()).filter(|address| !address.is_empty())
    });
    let address = address.map_err(|error| {
        let gateway = kubectl.run(&["--namespace=shop", "get", "gateway", "hello", "--output=yaml"]);
        error.context(gateway.unwrap_or_default())
    })?;
    Ok(address.parse()?)
}

/// A Node that does not say it would count as one that listens at every port.
fn nodes_say_where_they_listen(kubectl: &Kubectl) -> Result<()> {
    // Of the Ingress, and at least one of the Gateway.
    let says = |node: &Value| {
        let ports = text(node, "/metadata/annotations/skep.io~1gateway-ports");
        ports.contains(',') && ports.split(',').any(|port| port == "443")
    };
    kubectl.wait(&["nodes"], STEP_TIMEOUT, |nodes| nodes.iter().all(says).then_some(())).map_err(|error| {
        let nodes = kubectl.run(&["get", "nodes", "--output=yaml"]);
        error.context(nodes.unwrap_or_default())
    })
}

fn pods(space: &Space<'_>) -> Result<BTreeSet<String>> {
    let list = space.get(&["pods", "--selector=app=hello"])?;
    let names = list["items"].as_array().into_iter().flatten();
    Ok(names.map(|pod: &Value| text(pod, "/metadata/name").to_owned()).collect())
}

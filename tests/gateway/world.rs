//! An API server, a node's gateway, and endpoints, in a network namespace of their own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::Json;
use axum::extract::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Event, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use skep_apiserver::Identity;
use skep_gateway::ingress::Ports;
use skep_gateway::{Bound, Gateway, Limits};
use skep_network::{Acme, AcmeSettings, GatewaySubscriptions, Informers, NodeGateway, publish_gateways};
use skep_tests::api_server::{Authority, TestApiServer};
use skep_tests::netns::NetNs;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const NODE: &str = "gateway-node";
pub(crate) const NODE_IP: &str = "10.251.0.1";
const NAMESPACE: &str = "default";
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a story on one thread in a namespace with addresses for the node and its endpoints.
pub(crate) fn run<F: Future<Output = Result<()>>>(
    name: &str,
    story: impl FnOnce() -> F + Send,
) -> Result<()> {
    let netns = NetNs::new(name)?;
    netns.ip(&["link", "set", "lo", "up"])?;
    netns.ip(&["addr", "add", "10.251.0.0/16", "dev", "lo"])?;
    netns.run(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(story())
    })?
}

pub(crate) struct World {
    server: TestApiServer,
    pub(crate) gateway: Gateway,
    authority: Arc<Authority>,
    endpoints: JoinSet<()>,
    next_ip: u8,
    _stop: DropGuard,
}

/// A response, and what the endpoint saw.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) received: Value,
}

impl Answer {
    /// The name of the Service's endpoint that answered.
    pub(crate) fn service(&self) -> &str {
        self.received["service"].as_str().unwrap_or_default()
    }
}

impl World {
    pub(crate) async fn new() -> Result<World> {
        World::start(Arc::new(Authority::new()?), None).await
    }

    /// `authority`: the one that clients trust. `acme`: where certificates are ordered.
    pub(crate) async fn start(authority: Arc<Authority>, acme: Option<AcmeSettings>) -> Result<World> {
        let server = TestApiServer::start().await?;
        let nodes: Api<Node> = Api::all(server.client());
        let node = json!({"metadata": {"name": NODE}, "status": {"addresses": [{"type": "InternalIP", "address": NODE_IP}], "conditions": [{"type": "Ready", "status": "True"}]}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node.clone())?).await?;
        nodes
            .patch_status(NODE, &PatchParams::default(), &Patch::Merge(json!({"status": node["status"]})))
            .await?;
        let gateway = Gateway::new(Limits::of_descriptors(4_096), None);
        let stop = CancellationToken::new();
        let (bound_in, bound) = watch::channel(Bound::default());
        let (running, stopped) = (gateway.clone(), stop.clone());
        tokio::spawn(
            async move { running.run(&[NODE_IP.parse::<IpAddr>().unwrap()], bound_in, stopped).await },
        );
        let mut informers = Informers::default();
        let subscriptions = GatewaySubscriptions::new(&mut informers);
        let ports = Ports { http: Some(80), https: Some(443) };
        let of_node =
            NodeGateway { node: NODE.to_owned(), gateway: gateway.clone(), ports, subscriptions, bound };
        let as_node = server.client_of(Identity::new(format!("system:node:{NODE}"), &["system:nodes"]));
        let as_agent = server.client_of(Identity::new("skep:network-agent", &["skep:network-agents"]));
        tokio::spawn(of_node.run(as_node, as_agent.clone(), stop.clone()));
        tokio::spawn(informers.run(as_agent, stop.clone()));
        let account = "system:serviceaccount:kube-system:gateway-controller";
        let as_controller = server.client_of(Identity::of_user(account));
        let orders = "system:serviceaccount:kube-system:acme-controller";
        let acme = Acme { client: server.client_of(Identity::of_user(orders)), settings: acme };
        let publishing = publish_gateways(as_controller, acme);
        let until = stop.clone();
        tokio::spawn(async move { until.run_until_cancelled(publishing).await });
        Ok(World {
            server,
            gateway,
            authority,
            endpoints: JoinSet::new(),
            next_ip: 10,
            _stop: stop.drop_guard(),
        })
    }

    pub(crate) fn client_as_node(&self) -> kube::Client {
        self.server.client_of(Identity::new(format!("system:node:{NODE}"), &["system:nodes"]))
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.server.client()
    }

    pub(crate) fn ingresses(&self) -> Api<Ingress> {
        Api::namespaced(self.server.client(), NAMESPACE)
    }

    /// Creates a Service with so many endpoints that answer.
    pub(crate) async fn service(&mut self, name: &str, endpoints: usize) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.server.client(), NAMESPACE);
        let object = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 8080, "targetPort": 8080}]}});
        services.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        let mut ips = Vec::new();
        for _ in 0..endpoints {
            ips.push(self.endpoint(name).await?);
        }
        self.endpoints_of(name, &ips).await
    }

    /// Starts a server, and returns its address.
    pub(crate) async fn endpoint(&mut self, service: &str) -> Result<IpAddr> {
        let ip: IpAddr = format!("10.251.0.{}", self.next_ip).parse()?;
        self.next_ip += 1;
        let listener = TcpListener::bind((ip, 8080)).await?;
        let service = service.to_owned();
        let answer = move |request: Request| {
            let received = json!({
                "service": service, "pod": ip, "method": request.method().as_str(),
                "path": request.uri().path(), "proto": format!("{:?}", request.version()),
                "host": request.headers().get("host").and_then(|host| host.to_str().ok()),
                "user_agent": request.headers().get("user-agent").and_then(|agent| agent.to_str().ok()),
            });
            std::future::ready(Json(received))
        };
        self.endpoints
            .spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await.unwrap() });
        Ok(ip)
    }

    /// Says which endpoints a Service has.
    pub(crate) async fn endpoints_of(&self, service: &str, ips: &[IpAddr]) -> Result<()> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.server.client(), NAMESPACE);
        let endpoints: Vec<Value> =
            ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        slices.patch(service, &PatchParams::apply("test").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Creates a TLS Secret for a host, or replaces it; returns its certificate.
    pub(crate) async fn secret(&self, name: &str, host: &str) -> Result<String> {
        let pem = self.authority.issue_for(host, "x", host)?;
        let secrets: Api<Secret> = Api::namespaced(self.server.client(), NAMESPACE);
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": pem.certificate, "tls.key": pem.key},
        });
        secrets.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await?;
        Ok(pem.certificate)
    }

    pub(crate) async fn ingress(&self, name: &str, spec: Value) -> Result<()> {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.ingresses().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    }

    /// The addresses in an Ingress' status.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<String>> {
        let ingress = self.ingresses().get(name).await?;
        let entries = ingress.status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
        Ok(entries.into_iter().filter_map(|entry| entry.ip).collect())
    }

    /// Waits until an Ingress' status has the node's address.
    pub(crate) async fn exposed(&self, name: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while self.addresses(name).await? != [NODE_IP] {
            ensure!(Instant::now() < end, "Ingress {name} has {:?}", self.addresses(name).await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until the Node's condition has this reason and says this.
    pub(crate) async fn condition(&self, reason: &str, text: &str) -> Result<()> {
        let (nodes, end): (Api<Node>, _) = (Api::all(self.server.client()), Instant::now() + DEADLINE);
        loop {
            let conditions = nodes.get(NODE).await?.status.and_then(|status| status.conditions);
            let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "GatewayReady");
            let matches = ready.as_ref().is_some_and(|ready| {
                ready.reason.as_deref() == Some(reason)
                    && ready.message.as_ref().is_some_and(|message| message.contains(text))
            });
            if matches {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the condition is {ready:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reasons of the Events about an Ingress.
    pub(crate) async fn events(&self, name: &str) -> Result<BTreeSet<String>> {
        let events: Api<Event> = Api::namespaced(self.server.client(), NAMESPACE);
        let all = events.list(&Default::default()).await?.items.into_iter();
        let about = all.filter(|event| event.involved_object.name.as_deref() == Some(name));
        Ok(about.filter_map(|event| event.reason).collect())
    }

    pub(crate) async fn get(&self, host: &str, path: &str) -> Result<Answer> {
        self.send("GET", host, path).await
    }

    pub(crate) async fn send(&self, method: &str, host: &str, path: &str) -> Result<Answer> {
        let address: SocketAddr = format!("{NODE_IP}:80").parse()?;
        exchange(TcpStream::connect(address).await?, method, host, path).await
    }

    /// Waits until an endpoint answers: statuses are written apart from what the data plane serves.
    pub(crate) async fn served(&self, host: &str, path: &str) -> Result<Answer> {
        let end = Instant::now() + DEADLINE;
        loop {
            let answer = self.get(host, path).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return answer;
            }
            ensure!(Instant::now() < end, "{host}{path} is not served: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same over TLS, with the certificate checked.
    pub(crate) async fn served_tls(
        &self,
        host: &str,
        path: &str,
    ) -> Result<(Answer, CertificateDer<'static>)> {
        let end = Instant::now() + DEADLINE;
        loop {
            let answer = self.get_tls(host, path).await;
            if answer.as_ref().is_ok_and(|(answer, _)| answer.status == 200) {
                return answer;
            }
            ensure!(Instant::now() < end, "{host}{path} is not served over TLS: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Over TLS, with the certificate checked.
    pub(crate) async fn get_tls(&self, host: &str, path: &str) -> Result<(Answer, CertificateDer<'static>)> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(format!("{NODE_IP}:443")).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let leaf = chain.and_then(|chain| chain.first()).context("no certificate")?.clone().into_owned();
        Ok((exchange(stream, "GET", host, path).await?, leaf))
    }
}

async fn exchange<S>(stream: S, method: &str, host: &str, path: &str) -> Result<Answer>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", host);
    let request = request.header("user-agent", "Go-http-client/1.1").body(Empty::<bytes::Bytes>::new())?;
    let (head, body) = tokio::time::timeout(DEADLINE, sender.send_request(request)).await??.into_parts();
    let body = body.collect().await?.to_bytes();
    let received = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, received })
}

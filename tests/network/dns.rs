//! Names at the cluster's DNS address, asked from a pod: as soon as they are written, by UDP and TCP, IPv4 and IPv6, and while
//! agents come and go.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use skep_abi::{ABI_VERSION, Flow, FlowKey};
use skep_datapath::Options;
use skep_dns::Dns;
use skep_holder::{Holder, Purpose};
use skep_network::{
    DnsSubscriptions, Informers, KernelNetwork, NetworkConfig, NetworkState, NodeDns, Parts, Publisher,
    SettingsSource, Subscriptions, Telemetry,
};
use skep_tests::api_server::TestApiServer;
use skep_tests::netns::NetNs;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{Machine, NODE_ADDR, call_plugin};

const NODE: &str = "np-dns";
const DOMAIN: &str = "cluster.local";
/// How long a question may wait for its answer: as long as a resolver waits by default (resolv.conf(5)).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(20);
/// The time from a write to its first answer that the fastest of some writes keeps, on a machine that does other work too.
const WRITE_TO_ANSWER: Duration = Duration::from_millis(50);

/// A whole network agent with DNS, on a thread in the node's namespace.
struct Agent {
    stop: CancellationToken,
    state: watch::Receiver<NetworkState>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Agent {
    /// Without `datapath` the network never comes up, as while an agent loads its programs; its DNS runs all the same.
    fn start(
        machine: &Machine,
        datapath: Option<Options>,
        client: kube::Client,
        folder: &Path,
    ) -> Result<Agent> {
        let stop = CancellationToken::new();
        let (state_in, state) = watch::channel(NetworkState::NotReady("starting".into()));
        let mut config = NetworkConfig::new(NODE, folder.join("cni.sock"), folder.to_owned());
        config.health_port = 0;
        let network = datapath.map(|datapath| KernelNetwork { config, datapath });
        let (path, resolv_conf) = (folder.join("dns.sock"), folder.join("resolv.conf"));
        let (netns, stopped) = (machine.netns().path(), stop.clone());
        let thread = std::thread::spawn(move || -> Result<()> {
            skep_tests::netns::enter(&netns)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let tls = skep_dns::tls::client_config()?;
                let mut informers = Informers::default();
                let settings = SettingsSource::new(&mut informers, DOMAIN, resolv_conf);
                let dns = Dns::new(settings.defaults()?, tls, tokio::runtime::Handle::current());
                let subscriptions = Subscriptions::new(&mut informers);
                let holder = Holder::new(path, Purpose::Dns, Box::new(start_holder));
                let dns = NodeDns {
                    dns,
                    settings,
                    subscriptions: DnsSubscriptions::new(&mut informers, NODE),
                    holder: Some(holder),
                };
                let informing = tokio::spawn(informers.run(client.clone(), stopped.clone()));
                let publisher = Publisher::default();
                let serving = tokio::spawn(dns.run(&publisher, stopped.clone()));
                let parts = Parts { publisher, telemetry: Telemetry::default(), state: state_in };
                let ran = match network {
                    Some(network) => network.run(client, subscriptions, parts, stopped.clone()).await,
                    None => {
                        stopped.cancelled().await;
                        Ok(())
                    }
                };
                // When one part ends, the others end with it.
                stopped.cancel();
                informing.await?;
                serving.await?;
                Ok(ran?)
            })
        });
        Ok(Agent { stop, state, thread: Some(thread) })
    }

    async fn ready(&mut self) -> Result<()> {
        let ready = self.state.wait_for(|state| *state == NetworkState::Ready);
        tokio::time::timeout(DEADLINE, ready).await.context("the agent is not ready")??;
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.stop.cancel();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => bail!("the agent panicked"),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// As a thread: the test's process is not the program that has the command. It ends with the process.
fn start_holder(path: &Path) -> std::io::Result<()> {
    let holder = skep_holder::listen(path)?;
    std::thread::spawn(move || holder.hold());
    Ok(())
}

struct World {
    machine: Machine,
    pod: NetNs,
    api: TestApiServer,
    folder: tempfile::TempDir,
}

impl World {
    async fn named(name: &str) -> Result<World> {
        let cidrs = vec!["10.96.0.0/16".parse()?, "fd00:96::/112".parse()?];
        let api = TestApiServer::start_with(|config| config.services.cidrs = cidrs).await?;
        let world = World {
            machine: Machine::new(name)?,
            pod: NetNs::new(&format!("{name}-pod"))?,
            api,
            folder: tempfile::tempdir()?,
        };
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "spec": {"podCIDR": "10.79.1.0/24", "podCIDRs": ["10.79.1.0/24", "fd00:79:1::/64"]},
        });
        world.create("/api/v1/nodes", &node).await?;
        let address = json!({"status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDR}]}});
        world.request("PATCH", &format!("/api/v1/nodes/{NODE}/status"), &address).await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        world.create("/api/v1/namespaces/default/serviceaccounts", &account).await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "client", "namespace": "default", "labels": {"app": "client"}},
            "spec": {"nodeName": NODE, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "none"}]},
        });
        world.create("/api/v1/namespaces/default/pods", &pod).await?;
        Ok(world)
    }

    async fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", content);
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let answer = self.api.client().request(request.body(body)?).await;
        answer.with_context(|| format!("{method} {path}"))
    }

    async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.request("POST", path, object).await
    }

    async fn create_service(&self, name: &str) -> Result<()> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]},
        });
        self.create("/api/v1/namespaces/default/services", &service).await.map(drop)
    }

    fn start(&self) -> Result<Agent> {
        let datapath = Some(self.machine.options()?);
        Agent::start(&self.machine, datapath, self.api.client(), self.folder.path())
    }

    /// An agent whose network does not come up.
    fn start_without_network(&self) -> Result<Agent> {
        Agent::start(&self.machine, None, self.api.client(), self.folder.path())
    }

    /// The addresses of the cluster's DNS, as the server chose them.
    async fn servers(&self) -> Result<Vec<SocketAddr>> {
        let service =
            self.request("GET", "/api/v1/namespaces/kube-system/services/kube-dns", &Value::Null).await?;
        let ips = service["spec"]["clusterIPs"].as_array().context("no addresses")?;
        let ips = ips.iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
        Ok(ips.map(|ip| SocketAddr::new(ip, 53)).collect())
    }

    /// Conntrack entries with the address as an end.
    fn flows_of(&self, ip: IpAddr) -> Result<usize> {
        let path = self.machine.options()?.bpffs.join(format!("v{ABI_VERSION}/maps/CONNTRACK"));
        let flows: HashMap<MapData, FlowKey, Flow> =
            Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
        let keys = flows.keys().collect::<Result<Vec<_>, _>>()?;
        Ok(keys.iter().filter(|key| [key.low, key.high].contains(&ip.into())).count())
    }

    fn cni_socket(&self) -> PathBuf {
        self.folder.path().join("cni.sock")
    }
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a packet")
}

fn socket_to(pod: &NetNs, server: SocketAddr) -> Result<UdpSocket> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = pod.run(move || UdpSocket::bind(any))??;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

fn by_udp(socket: &UdpSocket, id: u16, name: &str, kind: RecordType) -> Result<Message> {
    socket.send(&question(id, name, kind))?;
    let mut buffer = [0; 2048];
    loop {
        let length = socket.recv(&mut buffer)?;
        let message = Message::from_vec(&buffer[..length])?;
        if message.metadata.id == id {
            return Ok(message);
        }
    }
}

fn by_tcp(pod: &NetNs, server: SocketAddr, name: &str, kind: RecordType) -> Result<Message> {
    let mut stream = pod.run(move || TcpStream::connect_timeout(&server, ANSWER_TIMEOUT))??;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let packet = question(9, name, kind);
    stream.write_all(&u16::try_from(packet.len())?.to_be_bytes())?;
    stream.write_all(&packet)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(Message::from_vec(&answer)?)
}

/// Writes Services, and gives the time from each write to the first answer with the address.
async fn delays_of_writes(world: &World, server: SocketAddr) -> Result<Vec<Duration>> {
    let mut delays = Vec::new();
    for round in 0..10 {
        let name = format!("web-{round}");
        let full = format!("{name}.default.svc.{DOMAIN}.");
        let socket = socket_to(&world.pod, server)?;
        world.create_service(&name).await?;
        let written = Instant::now();
        let mut id = 0;
        loop {
            id += 1;
            let answer = tokio::task::block_in_place(|| by_udp(&socket, id, &full, RecordType::A))?;
            if answer.metadata.response_code == ResponseCode::NoError && !answer.answers.is_empty() {
                break;
            }
            ensure!(written.elapsed() < DEADLINE, "{full} is not there");
        }
        delays.push(written.elapsed());
    }
    delays.sort();
    Ok(delays)
}

fn answers_both_families_by_both_protocols(world: &World, servers: &[SocketAddr], name: &str) -> Result<()> {
    for server in servers {
        for kind in [RecordType::A, RecordType::AAAA] {
            let socket = socket_to(&world.pod, *server)?;
            for answer in [by_udp(&socket, 3, name, kind)?, by_tcp(&world.pod, *server, name, kind)?] {
                let kinds: Vec<RecordType> =
                    answer.answers.iter().map(|record| record.record_type()).collect();
                ensure!(kinds == [kind], "{server} {kind}: {answer}");
            }
        }
    }
    Ok(())
}

/// A client that asks one question after the other until it is ended.
struct Client {
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    asked: AtomicUsize,
    lost: AtomicUsize,
    done: AtomicBool,
}

impl Client {
    fn start(socket: UdpSocket, name: String) -> Client {
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        let thread = std::thread::spawn(move || {
            let mut id = 0u16;
            while !shared.done.load(Ordering::Relaxed) {
                id = id.wrapping_add(1);
                shared.asked.fetch_add(1, Ordering::Relaxed);
                let answered = by_udp(&socket, id, &name, RecordType::A);
                if !answered.is_ok_and(|answer| answer.answers.len() == 1) {
                    shared.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Client { counts, thread }
    }

    fn asked(&self) -> usize {
        self.counts.asked.load(Ordering::Relaxed)
    }

    /// Until it has asked so many questions more.
    async fn asks(&self, more: usize) -> Result<()> {
        let target = self.asked() + more;
        let asking = async {
            while self.asked() < target {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.context("questions do not go on")
    }

    /// How many questions were asked, and how many of them got no answer.
    fn end(self) -> Result<(usize, usize)> {
        self.counts.done.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the client panicked")?;
        Ok((self.counts.asked.load(Ordering::Relaxed), self.counts.lost.load(Ordering::Relaxed)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_resolves_a_service_right_after_its_write_and_while_agents_are_replaced() -> Result<()> {
    let world = World::named("np-dns").await?;
    let mut agent = world.start()?;
    agent.ready().await?;
    call_plugin(&world.cni_socket(), "ADD", "client", &world.pod).await?;
    let servers = world.servers().await?;
    ensure!(servers.len() == 2, "{servers:?}");
    let delays = delays_of_writes(&world, servers[0]).await?;
    println!("from a write to the first answer: {delays:?}");
    ensure!(delays[0] < WRITE_TO_ANSWER, "{delays:?}");
    let name = format!("web-0.default.svc.{DOMAIN}.");
    tokio::task::block_in_place(|| answers_both_families_by_both_protocols(&world, &servers, &name))?;
    let flows = world.flows_of(servers[0].ip())? + world.flows_of(servers[1].ip())?;
    ensure!(flows == 0, "{flows} conntrack entries of DNS");

    // Four agents replace each other: two overlap with the one before, two come after a gap.
    let client = Client::start(socket_to(&world.pod, servers[0])?, name);
    for overlap in [true, false, true, false] {
        if overlap {
            let mut next = world.start()?;
            next.ready().await?;
            tokio::task::block_in_place(|| std::mem::replace(&mut agent, next).end())?;
        } else {
            tokio::task::block_in_place(|| agent.end())?;
            agent = world.start()?;
            agent.ready().await?;
        }
        client.asks(200).await?;
    }
    // The next one answers before its programs are loaded.
    tokio::task::block_in_place(|| agent.end())?;
    agent = world.start_without_network()?;
    client.asks(200).await?;
    let (asked, lost) = tokio::task::block_in_place(|| client.end())?;
    println!("{asked} questions over five restarts, {lost} lost");
    ensure!(lost == 0, "{lost} of {asked} questions were lost");
    tokio::task::block_in_place(|| agent.end())
}

/// Egress of the pod: to nothing, or to what the rule selects.
fn egress_policy(rules: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "egress"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": rules},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_treat_the_address_as_name_servers_in_pods() -> Result<()> {
    let world = World::named("np-dns-policy").await?;
    let mut agent = world.start()?;
    agent.ready().await?;
    call_plugin(&world.cni_socket(), "ADD", "client", &world.pod).await?;
    let server = world.servers().await?[0];
    let name = format!("kubernetes.default.svc.{DOMAIN}.");
    let answers = || {
        let socket = socket_to(&world.pod, server)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        anyhow::Ok(by_udp(&socket, 1, &name, RecordType::A).is_ok())
    };
    let becomes = |wanted: bool, what: &'static str| {
        let start = Instant::now();
        while answers()? != wanted {
            ensure!(start.elapsed() < DEADLINE, "{what}: answers are {}", !wanted);
        }
        anyhow::Ok(())
    };
    let (path, object) = ("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", "egress");
    let dns_pods = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    });
    let port = json!([{"port": 53, "protocol": "UDP"}]);
    let other_port = json!([{"port": 54, "protocol": "UDP"}]);
    let steps = [
        ("nothing", json!([]), false),
        ("the name servers", json!([{"to": [dns_pods], "ports": port}]), true),
        ("another port of them", json!([{"to": [dns_pods], "ports": other_port}]), false),
        ("the port everywhere", json!([{"ports": port}]), true),
        ("a block of others", json!([{"to": [{"ipBlock": {"cidr": "10.97.0.0/16"}}]}]), false),
        ("their block", json!([{"to": [{"ipBlock": {"cidr": "10.96.0.0/16"}}]}]), true),
    ];
    tokio::task::block_in_place(|| becomes(true, "no policy"))?;
    world.create(path, &egress_policy(json!([]))).await?;
    for (what, rules, wanted) in steps {
        world.request("PATCH", &format!("{path}/{object}"), &egress_policy(rules)).await?;
        tokio::task::block_in_place(|| becomes(wanted, what))?;
    }
    tokio::task::block_in_place(|| agent.end())
}

/// A name server on the node that answers every question about an address, after two lies about it: one with another id, one
/// for another name.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Upstream {
    fn start(netns: &NetNs) -> Result<Upstream> {
        let socket = netns.run(|| UdpSocket::bind("127.0.0.1:0"))??;
        let (address, asked) = (socket.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let other = Query::query(Name::from_ascii("bank.example.").expect("a name"), RecordType::A);
                let asked = question.queries[0].clone();
                let id = question.metadata.id;
                for (id, query, ip) in [
                    (id.wrapping_add(1), asked.clone(), [6, 6, 6, 6]),
                    (id, other, [6, 6, 6, 7]),
                    (id, asked, [203, 0, 113, 9]),
                ] {
                    let mut answer = Message::new(id, MessageType::Response, OpCode::Query);
                    let data = RData::A(std::net::Ipv4Addr::from(ip).into());
                    answer.add_answer(Record::from_rdata(query.name().clone(), 300, data));
                    answer.add_query(query);
                    let _ = socket.send_to(&answer.to_vec().expect("a packet"), from);
                }
            }
        });
        Ok(Upstream { address, asked })
    }
}

/// The addresses in an answer.
fn addresses(socket: &UdpSocket, id: u16, name: &str) -> Result<Vec<String>> {
    let answer = by_udp(socket, id, name, RecordType::A)?;
    Ok(answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.to_string()),
            _ => None,
        })
        .collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_s_settings_are_in_force_at_once_and_a_lying_upstream_is_not_believed() -> Result<()> {
    let world = World::named("np-dns-conf").await?;
    let upstream = Upstream::start(world.machine.netns())?;
    let mut agent = world.start()?;
    agent.ready().await?;
    call_plugin(&world.cni_socket(), "ADD", "client", &world.pod).await?;
    let socket = socket_to(&world.pod, world.servers().await?[0])?;
    let corefile = format!(
        ".:53 {{\n kubernetes {DOMAIN}\n hosts {{\n  192.0.2.7 printer.example\n  fallthrough\n }}\n forward . {}\n cache 30\n}}\n",
        upstream.address
    );
    let map = "/api/v1/namespaces/kube-system/configmaps/skep-dns";
    world.request("PATCH", map, &json!({"data": {"Corefile": corefile}})).await?;
    let written = Instant::now();
    let mut id = 0;
    while tokio::task::block_in_place(|| addresses(&socket, id, "printer.example."))? != ["192.0.2.7"] {
        ensure!(written.elapsed() < DEADLINE, "the host of the Corefile has no address");
        id += 1;
    }
    println!("settings were in force after {:?}", written.elapsed());
    let asked = upstream.asked.load(Ordering::Relaxed);
    for round in 0..3 {
        let found = tokio::task::block_in_place(|| addresses(&socket, 1_000 + round, "www.example."))?;
        let questions = upstream.asked.load(Ordering::Relaxed) - asked;
        ensure!(found == ["203.0.113.9"], "{found:?} after {questions} questions to the upstream");
    }
    let more = upstream.asked.load(Ordering::Relaxed) - asked;
    ensure!(more == 1, "the upstream was asked {more} times for one name");
    let kubernetes = format!("kubernetes.default.svc.{DOMAIN}.");
    let found = tokio::task::block_in_place(|| addresses(&socket, 2_000, &kubernetes))?;
    ensure!(found == ["10.96.0.1"], "{found:?}");

    // What is deleted is made again, with the settings of a new cluster.
    world.request("DELETE", map, &Value::Null).await?;
    let deleted = Instant::now();
    while world.request("GET", map, &Value::Null).await.is_err()
        || tokio::task::block_in_place(|| addresses(&socket, 3_000, "printer.example."))? == ["192.0.2.7"]
    {
        ensure!(deleted.elapsed() < DEADLINE, "the settings of a new cluster are not in force");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::task::block_in_place(|| agent.end())
}

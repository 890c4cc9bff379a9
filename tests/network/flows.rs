//! The flow log, as `skep flows --socket` reads it: fifty random drops of three pods under random policies, each with its reason and
//! with the policies or the Service behind it; flows that are allowed, with the rule that allowed them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod as PodObject, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, sendto, socket_with,
};
use serde_json::{Value, json};
use skep_abi::{Direction, Proto};
use skep_api::flow_log::{FlowQuery, FlowRecord, Line, Verdict};
use skep_policy::evaluate::{LabelMap, Packet, Pod, World, allows};
use skep_tests::netns::NetNs;
use skep_tests::random_policies::{Named, Random};

use crate::agent::{Agent, Machine, NODE_ADDR};

const NODE: &str = "np-flows";
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 9);
const DROPS: usize = 50;
const FIRST_PORT: u16 = 20_000;
const DEADLINE: Duration = Duration::from_secs(20);
/// Ports that policies name.
const PORTS: [u16; 3] = [80, 81, 90];
const PODS: [&str; 3] = ["one", "two", "three"];

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

/// The policies that isolate the pod in the direction.
fn isolating(world: &World, pod: &Pod, direction: Direction) -> BTreeSet<String> {
    let name = if direction == Direction::INGRESS { "Ingress" } else { "Egress" };
    let isolates = |policy: &&NetworkPolicy| {
        let spec = policy.spec.as_ref().expect("a spec");
        let labels = spec.pod_selector.as_ref().and_then(|selector| selector.match_labels.clone());
        let selects =
            labels.unwrap_or_default().iter().all(|(key, value)| pod.labels.get(key) == Some(value));
        selects && spec.policy_types.iter().flatten().any(|kind| kind == name)
    };
    let name =
        |policy: &NetworkPolicy| format!("default/{}", policy.metadata.name.as_deref().unwrap_or_default());
    world.policies.iter().filter(isolates).map(name).collect()
}

/// What the log must say of a packet.
#[derive(Debug, PartialEq)]
enum Expected {
    Denied {
        reason: &'static str,
        by: BTreeSet<String>,
    },
    Spoofed {
        interface: String,
    },
    NoBackend,
    /// A rule must allow it in each direction in which its pod is isolated.
    Allowed {
        egress: bool,
        ingress: bool,
    },
}

struct Scene {
    world: World,
    netns: Vec<NetNs>,
}

impl Scene {
    fn addr(&self, at: usize) -> Ipv4Addr {
        match self.world.pods[at].addrs[0] {
            IpAddr::V4(addr) => addr,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Sends a packet from a source port of its own; what must become of it.
    fn act(&self, random: &mut Random, source_port: u16) -> Result<Expected> {
        let (from, to) = (random.below(PODS.len()), random.below(PODS.len()));
        let to = if from == to { (to + 1) % PODS.len() } else { to };
        let (proto, port) = (random.pick(&[Proto::TCP, Proto::UDP]), random.pick(&PORTS));
        match random.below(10) {
            0 => {
                let third = (0..PODS.len()).find(|at| *at != from && *at != to).context("three pods")?;
                self.spoof(from, self.addr(third), SocketAddrV4::new(self.addr(to), port), source_port)?;
                Ok(Expected::Spoofed { interface: PODS[from].to_owned() })
            }
            1 => {
                self.send(from, SocketAddrV4::new(VIP, 80), Proto::UDP, source_port)?;
                Ok(Expected::NoBackend)
            }
            _ => {
                self.send(from, SocketAddrV4::new(self.addr(to), port), proto, source_port)?;
                Ok(self.verdict(from, to, proto, port))
            }
        }
    }

    fn verdict(&self, from: usize, to: usize, proto: Proto, port: u16) -> Expected {
        let (opener, target) = (&self.world.pods[from], &self.world.pods[to]);
        let packet = |direction, peer: &Pod| Packet { direction, peer: peer.addrs[0], proto, port };
        let (egress, ingress) = (
            isolating(&self.world, opener, Direction::EGRESS),
            isolating(&self.world, target, Direction::INGRESS),
        );
        if !allows(&self.world, opener, packet(Direction::EGRESS, target)) {
            return Expected::Denied { reason: "egress policy", by: egress };
        }
        if !allows(&self.world, target, packet(Direction::INGRESS, opener)) {
            return Expected::Denied { reason: "ingress policy", by: ingress };
        }
        Expected::Allowed { egress: !egress.is_empty(), ingress: !ingress.is_empty() }
    }

    fn send(&self, from: usize, to: SocketAddrV4, proto: Proto, source_port: u16) -> Result<()> {
        let own = SocketAddrV4::new(self.addr(from), source_port);
        self.netns[from].run(move || -> Result<()> {
            let kind = if proto == Proto::TCP { SocketType::STREAM } else { SocketType::DGRAM };
            let socket = socket_with(AddressFamily::INET, kind, SocketFlags::NONBLOCK, None)?;
            bind(&socket, &own)?;
            if proto == Proto::UDP {
                sendto(&socket, b"x", SendFlags::empty(), &to)?;
                return Ok(());
            }
            match connect(&socket, &to) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })?
    }

    /// A datagram with another pod's address.
    fn spoof(&self, from: usize, source: Ipv4Addr, to: SocketAddrV4, source_port: u16) -> Result<()> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0];
        packet.extend(source.octets());
        packet.extend(to.ip().octets());
        for half in [source_port, to.port(), 8, 0] {
            packet.extend(half.to_be_bytes());
        }
        self.netns[from].run(move || -> Result<()> {
            let socket =
                socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::empty(), Some(ipproto::RAW))?;
            sendto(&socket, &packet, SendFlags::empty(), &to)?;
            Ok(())
        })?
    }

    /// Whether the record says what it must.
    fn check(&self, record: &FlowRecord, expected: &Expected) -> Result<()> {
        let rule_allows = |direction: Direction| -> Result<bool> {
            let Some(rule) = &record.rule else { return Ok(false) };
            let list = if direction == Direction::INGRESS { "ingress" } else { "egress" };
            let Some(index) = rule.field.strip_prefix(&format!("spec.{list}[")) else { return Ok(false) };
            let index: usize = index.trim_end_matches(']').parse()?;
            self.allows_alone(record, &rule.policy, direction, index)
        };
        match expected {
            Expected::Denied { reason, by } => {
                ensure!(record.reason.as_deref() == Some(reason), "another reason");
                ensure!(
                    record.denied_by.iter().cloned().collect::<BTreeSet<_>>() == *by,
                    "other policies than {by:?}"
                );
            }
            Expected::Spoofed { interface } => {
                ensure!(record.reason.as_deref() == Some("spoofed source"), "another reason");
                let pod = record.interface.as_ref().context("the interface is missing")?;
                ensure!(pod.name == *interface, "sent by {interface}");
            }
            Expected::NoBackend => {
                ensure!(record.reason.as_deref() == Some("no backend"), "another reason");
                let service = record.service.as_ref().context("the service is missing")?;
                ensure!((service.name.as_str(), service.port) == ("web", 80), "another service");
            }
            Expected::Allowed { egress, ingress } => {
                ensure!(record.verdict == Verdict::Allowed && record.reason.is_none(), "it is allowed");
                let named = match (egress, ingress) {
                    (false, false) => record.rule.is_none(),
                    (true, false) => rule_allows(Direction::EGRESS)?,
                    _ => rule_allows(Direction::INGRESS)?,
                };
                ensure!(named, "egress {egress}, ingress {ingress}: no rule or one that does not allow it");
            }
        }
        ensure!(record.source.pod.is_some() || record.destination.pod.is_some(), "no pod is named");
        Ok(())
    }

    /// Whether the rule by itself allows what the record is about.
    fn allows_alone(
        &self,
        record: &FlowRecord,
        policy: &str,
        direction: Direction,
        index: usize,
    ) -> Result<bool> {
        let name = policy.strip_prefix("default/").context("another namespace")?;
        let found = self.world.policies.iter().find(|policy| policy.metadata.name.as_deref() == Some(name));
        let mut policy = found.context("no such policy")?.clone();
        let spec = policy.spec.as_mut().context("no spec")?;
        spec.ingress = spec.ingress.take().map(|rules| rules.into_iter().skip(index).take(1).collect());
        spec.egress = spec.egress.take().map(|rules| rules.into_iter().skip(index).take(1).collect());
        let end = |end: &skep_api::flow_log::End| end.ip.context("no address");
        let (source, destination) = (end(&record.source)?, end(&record.destination)?);
        let (own, peer) =
            if direction == Direction::INGRESS { (destination, source) } else { (source, destination) };
        let pod = self.world.pods.iter().find(|pod| pod.addrs.contains(&own)).context("no such pod")?;
        let world = World { policies: vec![policy], ..self.world.clone() };
        let proto = if record.protocol == "TCP" { Proto::TCP } else { Proto::UDP };
        let port = record.destination.port.context("no port")?;
        let isolated = !isolating(&world, pod, direction).is_empty();
        Ok(isolated && allows(&world, pod, Packet { direction, peer, proto, port }))
    }
}

/// A reader of the log; its records by source port, the first of each.
struct Reader(Arc<Mutex<BTreeMap<u16, FlowRecord>>>);

impl Reader {
    fn start(machine: &Machine, query: &FlowQuery) -> Result<Reader> {
        let mut stream = UnixStream::connect(machine.flows_socket())?;
        writeln!(stream, "{query}")?;
        let records: Arc<Mutex<BTreeMap<u16, FlowRecord>>> = Arc::default();
        let found = records.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Ok(Line::Flow(record)) = serde_json::from_str(&line)
                    && let (Some(port), Ok(mut found)) = (record.source.port, found.lock())
                {
                    found.entry(port).or_insert(*record);
                }
            }
        });
        Ok(Reader(records))
    }

    fn record(&self, source_port: u16) -> Option<FlowRecord> {
        self.0.lock().ok()?.get(&source_port).cloned()
    }

    fn wait(&self, source_port: u16) -> Result<FlowRecord> {
        let start = Instant::now();
        loop {
            if let Some(record) = self.record(source_port) {
                return Ok(record);
            }
            if start.elapsed() > DEADLINE {
                bail!("there is no record within {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The pods attached, everything known to the agent.
fn scene(agent: &mut Agent, random: &mut Random) -> Result<Scene> {
    let node: Node = object(json!({
        "metadata": {"name": NODE}, "spec": {"podCIDR": "10.79.1.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDR}]},
    }));
    let namespace: Namespace = object(json!({"metadata": {"name": "default"}}));
    let service: Service = object(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": VIP, "ports": [{"port": 80, "protocol": "UDP"}]},
    }));
    let named = Named { apps: &PODS, networks: &[], ports: &PORTS };
    let policies = named.policies(random, 6);
    let of_index = policies.clone();
    agent.index(move |index| {
        index.apply_node(&node);
        index.apply_namespace(&namespace);
        index.apply_service(&service);
        for name in PODS {
            index.apply_pod(&object::<PodObject>(json!({
                "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
                "spec": {"nodeName": NODE, "containers": []},
            })));
        }
        of_index.iter().for_each(|policy| index.apply_policy(policy));
    })?;
    agent.sync()?;
    let (mut pods, mut netns) = (Vec::new(), Vec::new());
    for name in PODS {
        let own = NetNs::new(&format!("np-flows-{name}"))?;
        let added = agent.cni("ADD", name, &own)?;
        let address = added["ips"][0]["address"].as_str().and_then(|text| text.strip_suffix("/32"));
        pods.push(Pod {
            namespace: "default".into(),
            labels: LabelMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            addrs: vec![address.context("no address")?.parse()?],
        });
        netns.push(own);
    }
    let world = World { policies, namespaces: BTreeMap::from([("default".into(), LabelMap::new())]), pods };
    Ok(Scene { world, netns })
}

#[test]
fn every_drop_and_every_flow_is_in_the_log_with_its_reason_and_rule() -> Result<()> {
    let machine = Machine::new(NODE)?;
    let mut agent = machine.start()?;
    let mut random = Random(0xf10e);
    let scene = scene(&mut agent, &mut random)?;
    let reader = Reader::start(&machine, &FlowQuery { last: 0, follow: true, ..FlowQuery::default() })?;
    // Until the programs send flows that open, too: the node may always be spoken to.
    let mut port = 10_000;
    let start = Instant::now();
    while reader.record(port).is_none() {
        ensure!(start.elapsed() < DEADLINE, "no flow that opens is in the log");
        port += 1;
        scene.send(0, SocketAddrV4::new(NODE_ADDR.parse()?, 9), Proto::UDP, port)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let (mut drops, mut acts) = (0, Vec::new());
    for source_port in FIRST_PORT.. {
        let expected = scene.act(&mut random, source_port)?;
        drops += usize::from(!matches!(expected, Expected::Allowed { .. }));
        acts.push((source_port, expected));
        if drops == DROPS {
            break;
        }
    }
    let mut wrong = Vec::new();
    for (source_port, expected) in &acts {
        let checked = reader
            .wait(*source_port)
            .and_then(|record| scene.check(&record, expected).with_context(|| format!("{record:?}")));
        wrong.extend(checked.err().map(|error| format!("{source_port} {expected:?}: {error:#}")));
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), acts.len(), wrong.join("\n"));
    let kind = |wanted: fn(&Expected) -> bool| acts.iter().filter(|(_, expected)| wanted(expected)).count();
    let counts = [
        kind(|expected| matches!(expected, Expected::Denied { .. })),
        kind(|expected| matches!(expected, Expected::Spoofed { .. })),
        kind(|expected| *expected == Expected::NoBackend),
        kind(|expected| matches!(expected, Expected::Allowed { .. })),
    ];
    println!("denied, spoofed, without backend, allowed: {counts:?}");
    ensure!(counts.iter().all(|count| *count > 0), "{counts:?}: the run shows little");
    // A reader that comes later gets the drops of the past, and no flows of the past.
    let past =
        machine.past(&FlowQuery { verdict: Some(Verdict::Dropped), last: 1_000, ..FlowQuery::default() })?;
    let ports: BTreeSet<u16> = past.iter().filter_map(|record| record.source.port).collect();
    let missing: Vec<_> = acts
        .iter()
        .filter(|(port, expected)| !matches!(expected, Expected::Allowed { .. }) != ports.contains(port))
        .collect();
    ensure!(missing.is_empty(), "{missing:?}");
    agent.end()
}

#[test]
fn a_flood_is_cut_to_its_rate_and_what_is_lost_is_counted() -> Result<()> {
    use skep_abi::EventKind;
    const FLOOD: u64 = 6_000;
    let machine = Machine::new("np-flood")?;
    let client = NetNs::new("np-flood-pod")?;
    let mut agent = machine.start()?;
    agent.index(|index| {
        index.apply_node(&object::<Node>(json!({"metadata": {"name": "np-flood"}, "spec": {"podCIDR": "10.79.1.0/24"}})));
        index.apply_namespace(&object::<Namespace>(json!({"metadata": {"name": "default"}})));
        index.apply_pod(&object::<PodObject>(json!({
            "metadata": {"namespace": "default", "name": "client"}, "spec": {"nodeName": "np-flood", "containers": []},
        })));
        index.apply_policy(&object::<NetworkPolicy>(json!({
            "metadata": {"namespace": "default", "name": "closed"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
        })));
    })?;
    agent.sync()?;
    agent.cni("ADD", "client", &client)?;
    let began = Instant::now();
    client.run(|| -> Result<()> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..FLOOD {
            // A packet that is dropped is no error of the sender's.
            socket.send_to(b"x", SocketAddr::from(([10, 79, 1, 200], 9)))?;
        }
        Ok(())
    })??;
    let seconds = began.elapsed().as_secs_f64() + 1.0;
    let events = agent.counters().events()?;
    let dropped = events.iter().find(|count| count.kind == EventKind::Dropped).context("no such kind")?;
    let all = dropped.sent + dropped.limited + dropped.full;
    ensure!(all >= FLOOD, "{dropped:?}: not all are accounted for");
    let cpus = std::thread::available_parallelism()?.get() as f64;
    ensure!(dropped.limited > 0, "{dropped:?}: nothing was left out");
    let most = EventKind::PER_SECOND as f64 * (seconds + 1.0) * cpus;
    ensure!((dropped.sent as f64) <= most, "{dropped:?} in {seconds} s");
    agent.end()
}

//! A UDP backend goes away: its clients through the service reach the next one in less than a second, by
//! packets and by sockets alike, and no other client is affected.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use skep_tests::netns::NetNs;

use crate::agent::{Agent, Machine, NODE_ADDR};

const NODE: &str = "np-udp";
const PORT: u16 = 5353;
const LIMIT: Duration = Duration::from_secs(1);

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an API object")
}

fn slice(service: &str, addr: &str) -> EndpointSlice {
    object(json!({
        "metadata": {"namespace": "default", "name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": PORT, "protocol": "UDP"}],
        "endpoints": [{"addresses": [addr], "nodeName": NODE}],
    }))
}

fn vip(service: &str) -> SocketAddr {
    SocketAddr::from(([10, 96, 8, if service == "dns" { 1 } else { 2 }], 53))
}

fn feed(agent: &Agent) -> Result<()> {
    let node: Node = object(json!({
        "metadata": {"name": NODE}, "spec": {"podCIDR": "10.79.2.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDR}]},
    }));
    let pods = ["client", "first", "second"].map(|name| -> Pod {
        object(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"nodeName": NODE, "containers": []},
        }))
    });
    let services = ["dns", "other"].map(|name| -> Service {
        object(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": vip(name).ip(), "ports": [{"port": 53, "protocol": "UDP"}]},
        }))
    });
    agent.index(move |index| {
        index.apply_node(&node);
        pods.iter().for_each(|pod| index.apply_pod(pod));
        services.iter().for_each(|service| index.apply_service(service));
    })
}

/// A pod that answers every datagram with its own address.
fn server(agent: &Agent, name: &str) -> Result<(NetNs, String)> {
    let netns = NetNs::new(&format!("npu-{name}"))?;
    let added = agent.cni("ADD", name, &netns)?;
    let addr = added["ips"][0]["address"].as_str().and_then(|text| text.strip_suffix("/32"));
    let addr = addr.context("no address")?.to_owned();
    let (at, text) = (format!("{addr}:{PORT}"), addr.clone());
    let socket = netns.run(move || UdpSocket::bind(at))??;
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        loop {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(text.as_bytes(), from);
            }
        }
    });
    Ok((netns, addr))
}

fn connected(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Connects as soon as the service has its backend: until it is in the kernel, a service without one refuses.
fn served(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let deadline = Instant::now() + 10 * LIMIT;
    loop {
        match connected(to) {
            Err(error)
                if error.kind() == std::io::ErrorKind::ConnectionRefused && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn ask(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A client that behaves as a resolver: it connects again after an error and repeats the request after silence.
fn until(mut socket: UdpSocket, to: SocketAddr, wanted: &str) -> Result<Duration> {
    let start = Instant::now();
    loop {
        match ask(&socket) {
            Ok(answer) if answer == wanted => return Ok(start.elapsed()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => socket = connected(to)?,
        }
        if start.elapsed() > 10 * LIMIT {
            bail!("never with {wanted}");
        }
    }
}

#[test]
fn clients_of_a_removed_udp_backend_are_with_the_next_within_a_second() -> Result<()> {
    let machine = Machine::new(NODE)?;
    machine.cgroup.make_threaded()?;
    let client = NetNs::new("npu-client")?;
    let mut agent = machine.start()?;
    feed(&agent)?;
    agent.sync()?;
    agent.cni("ADD", "client", &client)?;
    let (_first, a) = server(&agent, "first")?;
    let (_second, b) = server(&agent, "second")?;
    for service in ["dns", "other"] {
        let slice = slice(service, &a);
        agent.index(move |index| index.apply_slice(&slice))?;
    }
    let direct: SocketAddr = format!("{a}:{PORT}").parse()?;
    let by_packet = client.run(|| connected(vip("dns")))??;
    let connect = || -> Result<[UdpSocket; 3]> {
        machine.cgroup.enter()?;
        Ok([served(vip("dns"))?, served(vip("other"))?, connected(direct)?])
    };
    let [by_socket, other, direct] = client.run(connect)??;
    let deadline = Instant::now() + 10 * LIMIT;
    for socket in [&by_packet, &by_socket, &other, &direct] {
        while ask(socket).ok().as_deref() != Some(a.as_str()) {
            ensure!(Instant::now() < deadline, "no answer before the change");
        }
    }
    ensure!(by_socket.peer_addr()? == vip("dns"), "the application sees what it addressed");
    let moved = slice("dns", &b);
    agent.index(move |index| index.apply_slice(&moved))?;
    let took = until(by_packet, vip("dns"), &b)?;
    ensure!(took < LIMIT, "by packets it took {took:?}");
    let again = || -> Result<Duration> {
        machine.cgroup.enter()?;
        until(by_socket, vip("dns"), &b)
    };
    let took = took + client.run(again)??;
    ensure!(took < LIMIT, "by sockets it took {took:?}");
    for (name, socket) in [("other", &other), ("direct", &direct)] {
        ensure!(socket.take_error()?.is_none() && ask(socket)? == a, "{name} was touched");
    }
    agent.end()
}

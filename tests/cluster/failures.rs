//! Servers and agents killed, a node cut off, while connections go on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::cluster::kubectl::{condition, text};
use xtask::example::{self, http_get};

use crate::fixture::{NODES, Shared, Space, in_pod, options, shared};

/// A service, the addresses that reach it, and a pod to ask from.
struct Traffic<'a> {
    space: Space<'a>,
    client: Value,
    http: SocketAddr,
    echo: SocketAddr,
}

impl<'a> Traffic<'a> {
    fn new(shared: &'a Shared, namespace: &str) -> Result<Traffic<'a>> {
        let space = Space::new(&shared.cluster.kubectl, namespace)?;
        space.deploy("web", 3)?;
        let http = space.expose("web")?;
        let echo = ["expose", "deployment", "web", "--name=echo", "--port=9000", "--target-port=9000"];
        space.run(&echo)?;
        let echo = text(&space.get(&["service", "echo"])?, "/spec/clusterIP").to_owned();
        space.deploy("client", 1)?;
        let client = space.ready_pods("app=client")?.into_iter().next().context("no client")?;
        let (http, echo) = (format!("{http}:80").parse()?, format!("{echo}:9000").parse()?);
        Ok(Traffic { space, client, http, echo })
    }

    /// Asks all the time, over new connections and an established one, while `work` is done; every request must be
    /// answered.
    fn while_asking<T: Send>(&self, shared: &Shared, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let stop = AtomicBool::new(false);
        let asked = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                in_pod(&shared.cluster, &self.client, || ask_until(self.http, self.echo, &stop, &asked))
            });
            let done = wait_until(|| asked.load(Ordering::Acquire) > 0 || asking.is_finished())
                .and_then(|()| work());
            stop.store(true, Ordering::Release);
            match asking.join() {
                Ok(asking) => asking.context("a request failed")?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            println!("{} requests, none failed", asked.load(Ordering::Acquire));
            done
        })
    }
}

fn wait_until(done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        ensure!(Instant::now() < deadline, "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn ask_until(http: SocketAddr, echo: SocketAddr, stop: &AtomicBool, asked: &AtomicUsize) -> Result<()> {
    let timeout = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&echo, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    while !stop.load(Ordering::Acquire) {
        http_get(http, timeout).with_context(|| format!("new connection number {asked:?}"))?;
        stream.write_all(b"still there")?;
        stream.read_exact(&mut [0; 11]).with_context(|| format!("established connection, {asked:?}"))?;
        asked.fetch_add(1, Ordering::Release);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Writes objects until the server is gone; returns the names that it acknowledged.
fn write_until_gone(space: &Space<'_>, gone: &AtomicBool) -> Vec<String> {
    let mut written = Vec::new();
    for number in 0.. {
        let name = format!("write-{number}");
        if space.run(&["create", "configmap", &name, &format!("--from-literal=n={number}")]).is_ok() {
            written.push(name);
        } else if gone.load(Ordering::Acquire) {
            return written;
        }
    }
    written
}

#[test]
fn a_killed_server_loses_no_write_and_stops_no_connection() -> Result<()> {
    let shared = shared()?;
    let traffic = Traffic::new(&shared, "kill-server")?;
    let cluster = &shared.cluster;
    let written = traffic.while_asking(&shared, || {
        let gone = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| write_until_gone(&traffic.space, &gone));
            std::thread::sleep(Duration::from_secs(1));
            let killed = cluster.kill_server();
            gone.store(true, Ordering::Release);
            let written = writing.join().map_err(|_| anyhow::anyhow!("the writer ended badly"))?;
            ensure!(killed?, "there was no server to kill");
            Ok(written)
        })?;
        // Traffic must go on without the server.
        std::thread::sleep(Duration::from_secs(2));
        cluster.start_server(&options())?;
        Ok(written)
    })?;
    ensure!(!written.is_empty(), "nothing was written before the server was killed");
    for name in &written {
        traffic.space.run(&["get", "configmap", name])?;
    }
    println!("{} acknowledged writes are all there", written.len());
    traffic.space.run(&["scale", "deployment/web", "--replicas=4"])?;
    traffic.space.wait_ready("app=web", 4)
}

#[test]
fn a_killed_agent_stops_no_connection_and_its_pods_stay() -> Result<()> {
    let shared = shared()?;
    let traffic = Traffic::new(&shared, "kill-agent")?;
    let cluster = &shared.cluster;
    let before = traffic.space.ready_pods("app=web")?;
    traffic.while_asking(&shared, || {
        for index in 1..=NODES {
            ensure!(cluster.kill_agent(index)?, "there was no agent to kill");
        }
        std::thread::sleep(Duration::from_secs(2));
        for index in 1..=NODES {
            cluster.start_node(index)?;
        }
        cluster.wait_for_nodes(NODES, |_| ())?;
        traffic.space.run(&["scale", "deployment/web", "--replicas=5"])?;
        traffic.space.wait_ready("app=web", 5)
    })?;
    let after = traffic.space.ready_pods("app=web")?;
    for pod in &before {
        let same = |other: &&Value| text(other, "/metadata/uid") == text(pod, "/metadata/uid");
        let now = after.iter().find(same).context("a pod was replaced")?;
        let restarts = now.pointer("/status/containerStatuses/0/restartCount");
        ensure!(restarts == Some(&Value::from(0)), "{} was restarted", text(now, "/metadata/name"));
    }
    Ok(())
}

/// Heals the uplink whatever happens.
struct Cable<'a>(&'a Shared, u8);

impl Drop for Cable<'_> {
    fn drop(&mut self) {
        let _ = self.0.cluster.set_uplink(self.1, true);
    }
}

#[test]
fn pods_of_a_lost_node_run_elsewhere_and_the_service_answers() -> Result<()> {
    let shared = shared()?;
    let cluster = &shared.cluster;
    let kubectl = &cluster.kubectl;
    example::deploy(kubectl)?;
    let result = lose_a_node(&shared);
    kubectl.run(&["delete", "namespace", example::NAMESPACE, "--wait=false"])?;
    result
}

fn lose_a_node(shared: &Shared) -> Result<()> {
    let cluster = &shared.cluster;
    let lost = cluster.layout.node(NODES).name;
    let cable = Cable(shared, NODES);
    let cut = Instant::now();
    cluster.set_uplink(NODES, false)?;
    cluster.kubectl.wait(&["nodes"], Duration::from_secs(40), |nodes| {
        let node = nodes.iter().find(|node| text(node, "/metadata/name") == lost)?;
        (!condition(node, "Ready")).then_some(())
    })?;
    println!("the lost node was noticed after {:?}", cut.elapsed());
    let args = ["pods", "--namespace=example", "--selector=app in (web, api)"];
    cluster.kubectl.wait(&args, Duration::from_secs(60), |pods| {
        let elsewhere =
            pods.iter().filter(|pod| condition(pod, "Ready") && text(pod, "/spec/nodeName") != lost);
        (elsewhere.count() == example::REPLICAS).then_some(())
    })?;
    println!("every replica ran elsewhere after {:?}", cut.elapsed());
    let address = SocketAddr::from((cluster.layout.node(1).addr, example::NODE_PORT));
    let mut answers = Vec::new();
    for _ in 0..60 {
        answers.push(http_get(address, Duration::from_secs(2))?);
    }
    if answers.iter().any(|answer| answer.contains(&lost)) {
        bail!("a lost replica answered");
    }
    drop(cable);
    cluster.wait_for_nodes(NODES, |_| ())?;
    println!("the node was Ready again after {:?}", cut.elapsed());
    example::wait_ready(&cluster.kubectl, |_, _| ())
}

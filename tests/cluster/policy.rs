//! Network policy: deleting one opens the path, making one closes it within 100 ms, for established connections too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use xtask::cluster::kubectl::text;

use crate::fixture::{Shared, Space, in_pod, shared};

const BOUND: Duration = Duration::from_millis(100);

fn client(shared: &Shared) -> Result<(tokio::runtime::Runtime, Client)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let file = Kubeconfig::read_from(&shared.cluster.kubectl.kubeconfig)?;
    let client = runtime.block_on(async {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await?;
        Client::try_from(config).map_err(anyhow::Error::from)
    })?;
    Ok((runtime, client))
}

fn deny_all(name: &str) -> Result<NetworkPolicy> {
    let policy = serde_json::json!({
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": []},
    });
    Ok(serde_json::from_value(policy)?)
}

/// One byte there and back.
fn ping(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_millis(20))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(stream)
}

/// The time at which the path opened, tried every few milliseconds.
fn opened(address: SocketAddr, timeout: Duration) -> Result<(TcpStream, Instant)> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Ok(stream) = connect(address) {
            return Ok((stream, Instant::now()));
        }
        if Instant::now() > deadline {
            bail!("{address} does not open");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The last time that the connection carried anything; it ends when nothing comes back.
fn last_echo(stream: &mut TcpStream, running: &AtomicBool) -> Instant {
    let mut last = Instant::now();
    running.store(true, Ordering::Release);
    while ping(stream) {
        last = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
    }
    last
}

fn measure(service: bool) -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, if service { "policy-service" } else { "policy-pod" })?;
    space.deploy("web", 1)?;
    space.run(&["expose", "deployment", "web", "--port=9000", "--target-port=9000"])?;
    space.deploy("client", 1)?;
    let web = space.ready_pods("app=web")?.into_iter().next().context("no replica")?;
    let address = match service {
        true => text(&space.get(&["service", "web"])?, "/spec/clusterIP").to_owned(),
        false => text(&web, "/status/podIP").to_owned(),
    };
    let address: SocketAddr = format!("{address}:9000").parse()?;
    let pod = space.ready_pods("app=client")?.into_iter().next().context("no client")?;
    let (runtime, kube) = client(&shared)?;
    let policies: Api<NetworkPolicy> = Api::namespaced(kube, &space.name);
    runtime.block_on(policies.create(&PostParams::default(), &deny_all("deny")?))?;
    in_pod(&shared.cluster, &pod, || {
        std::thread::sleep(BOUND);
        ensure!(connect(address).is_err(), "the policy denies nothing");
        for round in 0..5 {
            let deny = deny_all("deny")?;
            runtime.block_on(policies.delete("deny", &DeleteParams::default()))?;
            let deleted = Instant::now();
            let (mut stream, at) = opened(address, Duration::from_secs(5))?;
            let opening = at.duration_since(deleted);
            ensure!(ping(&mut stream), "the opened connection carries nothing");
            let running = AtomicBool::new(false);
            let (created, last) = std::thread::scope(|scope| -> Result<_> {
                let echo = scope.spawn(|| last_echo(&mut stream, &running));
                while !running.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                runtime.block_on(policies.create(&PostParams::default(), &deny))?;
                let created = Instant::now();
                let last = echo.join().map_err(|_| anyhow::anyhow!("the echo ended badly"))?;
                Ok((created, last))
            })?;
            let closing = last.saturating_duration_since(created);
            println!("round {round}: opened after {opening:?}, established connection cut after {closing:?}");
            ensure!(opening < BOUND, "opened after {opening:?}");
            ensure!(closing < BOUND, "the established connection was cut after {closing:?}");
            ensure!(connect(address).is_err(), "a new connection is let in");
        }
        Ok(())
    })
}

#[test]
fn a_policy_opens_and_closes_the_way_to_a_pod_within_100_ms() -> Result<()> {
    measure(false)
}

#[test]
fn a_policy_opens_and_closes_the_way_through_a_service_within_100_ms() -> Result<()> {
    measure(true)
}

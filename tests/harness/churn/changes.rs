//! Services that come, change and go, and the endpoints of the steady one that take turns.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::world::{STEADY, World, create_service, create_slice, object, replace_endpoints};

const WORKERS: u32 = 4;

pub(super) struct Changes {
    workers: JoinSet<Result<usize>>,
    wrong_nodes: JoinSet<Result<usize>>,
}

pub(super) fn start(
    world: &World,
    per_second: u32,
    runtime: &Runtime,
    stop: &Arc<AtomicBool>,
) -> Result<Changes> {
    ensure!(per_second >= WORKERS, "fewer changes than {WORKERS} a second are no churn");
    let mut workers = JoinSet::new();
    let pace = Duration::from_secs(1) * WORKERS / per_second;
    for number in 0..WORKERS {
        let work = change(world.client.clone(), number, world.backends.clone(), pace, stop.clone());
        workers.spawn_on(work, runtime.handle());
    }
    let turns = take_turns(world.client.clone(), world.backends.clone(), stop.clone());
    workers.spawn_on(turns, runtime.handle());
    let mut wrong_nodes = JoinSet::new();
    wrong_nodes.spawn_on(
        add_wrong_nodes(world.client.clone(), world.node_addr, world.backends[0], stop.clone()),
        runtime.handle(),
    );
    Ok(Changes { workers, wrong_nodes })
}

impl Changes {
    /// Waits for the last ones; how many there were, and how many wrong Nodes. Every one must have succeeded.
    pub(super) async fn count(self) -> Result<(usize, usize)> {
        let sum = async |mut tasks: JoinSet<Result<usize>>| -> Result<usize> {
            let mut all = 0;
            while let Some(done) = tasks.join_next().await {
                all += done??;
            }
            Ok(all)
        };
        Ok((sum(self.workers).await?, sum(self.wrong_nodes).await?))
    }
}

/// A Service at a time: made, given endpoints, changed, emptied, deleted.
async fn change(
    client: Client,
    worker: u32,
    backends: Vec<Ipv4Addr>,
    pace: Duration,
    stop: Arc<AtomicBool>,
) -> Result<usize> {
    let mut tick = interval(pace);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let mut changes = 0;
    for round in 0.. {
        let name = format!("churn-{worker}-{round}");
        let kind = if round % 2 == 0 { "ClusterIP" } else { "NodePort" };
        for step in 0..6 {
            if stop.load(Ordering::Acquire) {
                return Ok(changes);
            }
            tick.tick().await;
            match step {
                0 => drop(create_service(&client, &name, kind).await?),
                1 => create_slice(&client, &name, &backends).await?,
                2 => replace_endpoints(&client, &name, &backends[1..]).await?,
                3 => replace_endpoints(&client, &name, &[]).await?,
                4 => drop(services.delete(&name, &DeleteParams::default()).await?),
                _ => drop(slices.delete(&name, &DeleteParams::default()).await?),
            }
            changes += 1;
        }
    }
    Ok(changes)
}

/// Takes each backend of the steady Service out in turn: connections to it stay open as long as it exists.
async fn take_turns(client: Client, backends: Vec<Ipv4Addr>, stop: Arc<AtomicBool>) -> Result<usize> {
    let mut changes = 0;
    while !stop.load(Ordering::Acquire) {
        let out = changes % backends.len();
        let rest: Vec<Ipv4Addr> =
            backends.iter().enumerate().filter(|(i, _)| *i != out).map(|(_, addr)| *addr).collect();
        replace_endpoints(&client, STEADY, &rest).await?;
        changes += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    replace_endpoints(&client, STEADY, &backends).await?;
    Ok(changes)
}

/// Nodes as a mistyped address or a taken kubelet makes them: off every link, with another node's address, with a pod's, with
/// none, with the pods of all. None of them may change what right ones do.
async fn add_wrong_nodes(
    client: Client,
    node: Ipv4Addr,
    pod: Ipv4Addr,
    stop: Arc<AtomicBool>,
) -> Result<usize> {
    let nodes: Api<Node> = Api::all(client);
    let pods =
        |bits: u8| format!("{}/{bits}", Ipv4Addr::from_bits(pod.to_bits() >> (32 - bits) << (32 - bits)));
    let wrong = [
        (vec![Ipv4Addr::new(192, 168, 77, 5)], "10.222.0.0/24".to_owned()),
        (vec![node], "10.222.1.0/24".to_owned()),
        (vec![pod], "10.222.2.0/24".to_owned()),
        (Vec::new(), "10.222.3.0/24".to_owned()),
        (vec![Ipv4Addr::new(192, 168, 77, 6)], pods(16)),
        (vec![Ipv4Addr::new(192, 168, 77, 7)], pods(24)),
    ];
    let mut added = 0;
    while !stop.load(Ordering::Acquire) {
        let (addrs, cidr) = &wrong[added % wrong.len()];
        let name = format!("wrong-{added}");
        let object: Node =
            object(json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}));
        nodes.create(&PostParams::default(), &object).await?;
        let addresses: Vec<_> = addrs.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let status = json!({"status": {"addresses": addresses}});
        nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        nodes.delete(&name, &DeleteParams::default()).await?;
        added += 1;
    }
    Ok(added)
}

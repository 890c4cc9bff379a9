//! Services that come, change and go, and the endpoints of the steady one that take turns.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::world::{STEADY, World, create_service, create_slice, replace_endpoints};

const WORKERS: u32 = 4;

pub(super) struct Changes(JoinSet<Result<usize>>);

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
    Ok(Changes(workers))
}

impl Changes {
    /// Waits for the last ones; how many there were. Every one must have succeeded.
    pub(super) async fn count(mut self) -> Result<usize> {
        let mut all = 0;
        while let Some(done) = self.0.join_next().await {
            all += done??;
        }
        Ok(all)
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

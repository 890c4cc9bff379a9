//! The node's heartbeat: a Lease in kube-node-lease, renewed at a fixed interval.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-node-lease";
const MIN_RETRY_DELAY: Duration = Duration::from_millis(200);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(7);
const MIN_RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the Lease is renewed, and for how long a renewal is valid.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    pub interval: Duration,
    pub duration: Duration,
}

/// Renews the Lease until `stop`. A failed renewal is repeated soon, because pods are evicted from a node whose Lease
/// expires. `reconnected` changes at the first renewal after a failure.
pub(super) async fn keep(
    client: Client,
    name: String,
    node: watch::Receiver<Option<Node>>,
    times: LeaseTimes,
    reconnected: watch::Sender<()>,
    stop: CancellationToken,
) {
    let LeaseTimes { interval, duration } = times;
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut held: Option<Lease> = None;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut delay = MIN_RETRY_DELAY;
    let mut failed = false;
    loop {
        let renewal = renew(&api, &name, &node, held.take(), duration);
        // A renewal that hangs must not last longer than the lease.
        match tokio::time::timeout(interval.max(MIN_RENEWAL_TIMEOUT), renewal).await {
            Ok(Ok(lease)) => {
                held = Some(lease);
                delay = MIN_RETRY_DELAY;
                if std::mem::take(&mut failed) {
                    reconnected.send_replace(());
                }
            }
            failure => {
                failed = true;
                if let Ok(Err(error)) = failure {
                    tracing::debug!(%error, "renew lease failed");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
                delay = (delay * 2).min(interval).min(MAX_RETRY_DELAY);
                continue;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
    }
}

async fn renew(
    api: &Api<Lease>,
    name: &str,
    node: &watch::Receiver<Option<Node>>,
    held: Option<Lease>,
    duration: Duration,
) -> Result<Lease, kube::Error> {
    let lease = match held {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    };
    let owner = node.borrow().as_ref().map(|node| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..Default::default()
    });
    let owners = owner.map(|o| vec![o]);
    match lease {
        Some(mut lease) => {
            lease.spec = Some(spec);
            lease.metadata.owner_references = owners.or(lease.metadata.owner_references);
            api.replace(name, &PostParams::default(), &lease).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                owner_references: owners,
                ..Default::default()
            };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
        }
    }
}

//! The endpoints of the `kubernetes` Service: the servers that share the store and live.
//!
//! A store of one server's own has no leases: that server is the endpoint.
//!
//! As upstream's lease reconciler: each server renews a key of its own below `/registry/masterleases/`, which the API does
//! not serve. A server is dead when its key did not change for [`LEASE_DURATION`] by the clock of the server that looks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use skep_api::{Status, find, meta};
use skep_store::{Entry, Expect, Revision};
use tokio::sync::Mutex;

use crate::bootstrap::ensure_fields;
use crate::clock::now;
use crate::endpoints::slices_of;
use crate::stored::{Storage, store_error};

const LEASES: &str = "/registry/masterleases/";
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "skep-apiserver";

/// This server's endpoint, its lease, and what it saw of the others'.
pub(crate) struct ServerEndpoints {
    storage: Storage,
    own: SocketAddr,
    /// Whether there may be other servers.
    is_shared: bool,
    seen: Mutex<HashMap<String, Seen>>,
}

/// A version of a lease, and when this server first saw it.
#[derive(Clone, Copy)]
struct Seen {
    version: Revision,
    since: Instant,
}

impl ServerEndpoints {
    pub(crate) fn new(storage: Storage, own: SocketAddr, is_shared: bool) -> ServerEndpoints {
        ServerEndpoints { storage, own, is_shared, seen: Mutex::default() }
    }

    /// The address of this server.
    pub(crate) fn own(&self) -> SocketAddr {
        self.own
    }

    /// Between two rounds without a cause.
    pub(crate) fn interval(&self) -> Duration {
        if self.is_shared { RENEWAL_INTERVAL } else { Duration::MAX }
    }

    /// Renews the lease, and writes the endpoints if they are others.
    pub(crate) async fn round(&self) -> Result<(), Status> {
        if !self.is_shared {
            return write(&self.storage, &[self.own].into()).await;
        }
        let value = json!({"address": self.own.to_string(), "renewed": now()});
        let (store, key) = (self.storage.caches.store(), self.key());
        store.put(&key, Bytes::from(value.to_string()), Expect::Any).await.map_err(store_error)?;
        let live = self.living(&self.leases().await?, Instant::now()).await;
        write(&self.storage, &live).await
    }

    /// Removes this server from the endpoints, at its end, if there may be others.
    pub(crate) async fn withdraw(&self) -> Result<(), Status> {
        if !self.is_shared {
            return Ok(());
        }
        let removed = self.storage.caches.store().delete(&self.key(), Expect::Any).await;
        removed.map_err(store_error)?;
        let mut live = self.living(&self.leases().await?, Instant::now()).await;
        live.remove(&self.own);
        if live.is_empty() {
            return Ok(());
        }
        write(&self.storage, &live).await
    }

    fn key(&self) -> String {
        format!("{LEASES}{}", self.own)
    }

    async fn leases(&self) -> Result<Vec<Entry>, Status> {
        let range = self.storage.caches.store().range(LEASES, None, 0, None).await;
        Ok(range.map_err(store_error)?.entries)
    }

    /// The servers with a lease that changed lately. Forgets and deletes those that died.
    async fn living(&self, leases: &[Entry], now: Instant) -> BTreeSet<SocketAddr> {
        let mut seen = self.seen.lock().await;
        seen.retain(|key, _| leases.iter().any(|lease| *lease.key == **key));
        let mut live = BTreeSet::from([self.own]);
        for lease in leases {
            let before = seen.get(&*lease.key).filter(|seen| seen.version == lease.modified).copied();
            let current = before.unwrap_or(Seen { version: lease.modified, since: now });
            seen.insert(lease.key.to_string(), current);
            let address = lease.key.strip_prefix(LEASES).and_then(|text| text.parse().ok());
            if now.duration_since(current.since) < LEASE_DURATION {
                live.extend(address);
            } else if Some(self.own) != address {
                tracing::warn!(server = ?address, "API server is gone; its endpoint is removed");
                // A server that lives renewed it meanwhile; then nothing is deleted.
                drop(self.storage.caches.store().delete(&lease.key, Expect::Revision(lease.modified)).await);
            }
        }
        live
    }
}

/// Writes the Endpoints and EndpointSlices of the `kubernetes` Service. A slice has one family and one port.
async fn write(storage: &Storage, servers: &BTreeSet<SocketAddr>) -> Result<(), Status> {
    let mut groups: BTreeMap<(bool, u16), Vec<String>> = BTreeMap::new();
    for server in servers {
        groups.entry((server.is_ipv6(), server.port())).or_default().push(server.ip().to_string());
    }
    let mut subsets = Vec::new();
    let mut wanted = BTreeSet::new();
    for ((v6, port), ips) in groups {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let name = match wanted.is_empty() {
            true => "kubernetes".to_owned(),
            false => format!("kubernetes-{}-{port}", family.to_lowercase()),
        };
        let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        subsets.push(json!({"addresses": addresses, "ports": ports}));
        ensure_fields(storage, slice(&name, family, &ips, &ports), &["addressType", "endpoints", "ports"])
            .await?;
        wanted.insert(name);
    }
    remove_other_slices(storage, &wanted).await?;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    ensure_fields(storage, endpoints, &["subsets"]).await
}

fn slice(name: &str, family: &str, ips: &[String], ports: &Value) -> Value {
    let endpoint = |ip: &String| json!({"addresses": [ip], "conditions": {"ready": true}});
    let mut labels = json!({"kubernetes.io/service-name": "kubernetes"});
    if name != "kubernetes" {
        labels[MANAGED_BY] = MANAGER.into();
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "addressType": family,
        "endpoints": ips.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": ports,
    })
}

async fn remove_other_slices(storage: &Storage, wanted: &BTreeSet<String>) -> Result<(), Status> {
    let Some(kind) = find("discovery.k8s.io", "v1", "endpointslices") else { return Ok(()) };
    for slice in slices_of(&storage.caches, "default", "kubernetes") {
        let object = slice.value();
        let ours = object["metadata"]["labels"][MANAGED_BY] == MANAGER;
        if ours && !wanted.contains(meta::name(&object)) {
            storage.remove(kind, &slice).await?;
        }
    }
    Ok(())
}

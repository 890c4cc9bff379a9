//! Compares the addresses and node ports that are allocated with those that Services have. They differ after an upgrade
//! from a server without allocations, after a crash between two writes, and after the deletion of an IPAddress in use.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use skep_api::kinds::service::Held;
use skep_api::{Status, find, meta};
use tokio::time::Instant;

use crate::allocate::owner::Owner;
use crate::allocate::{Allocator, address, port};
use crate::cache::{Caches, ChangeKind};
use crate::object::{Object, prefix};
use crate::stored::{Storage, store_error};

/// Upstream's interval.
const REPAIR_INTERVAL: Duration = Duration::from_secs(180);
/// A younger allocation may belong to a Service that is just being written.
const MIN_AGE: SignedDuration = SignedDuration::from_secs(60);

/// Repairs at an interval. The deletion of an IPAddress in use is undone at once.
pub(super) async fn run(allocator: Arc<Allocator>) {
    let storage = &allocator.storage;
    let Some(mut changes) = address::changes(&storage.caches) else { return };
    let mut due = tokio::time::interval_at(Instant::now() + REPAIR_INTERVAL, REPAIR_INTERVAL);
    let mut settled_at = None;
    loop {
        let change = tokio::select! {
            change = changes.recv() => Some(change),
            _ = due.tick() => None,
        };
        let result = match change {
            Some(Some(change)) if change.kind == ChangeKind::Deleted => {
                restore(storage, &change.object.value()).await
            }
            Some(Some(_)) => continue,
            // Changes were missed.
            Some(None) => match address::changes(&storage.caches) {
                Some(new) => {
                    changes = new;
                    repair(storage).await.map(drop)
                }
                None => return,
            },
            None => repair_if_changed(storage, &mut settled_at).await,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "repair service allocations failed");
        }
    }
}

/// Allocates the address of a deleted IPAddress again if its Service still has it.
async fn restore(storage: &Storage, deleted: &Value) -> Result<(), Status> {
    let (Some(services), parent) = (find("", "v1", "services"), &deleted["spec"]["parentRef"]) else {
        return Ok(());
    };
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    let Ok(service) = storage.caches.get_or_404(services, text("namespace"), text("name")) else {
        return Ok(());
    };
    let service = service.value();
    match meta::name(deleted).parse() {
        Ok(ip) if Held::of(&service).addresses.contains(&ip) => {
            address::hold(storage, ip, Some(&Owner::of(&service))).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// Repairs unless nothing changed since a round that left nothing open.
async fn repair_if_changed(storage: &Storage, settled_at: &mut Option<[u64; 2]>) -> Result<(), Status> {
    let now = last_changes(&storage.caches);
    if *settled_at != Some(now) {
        let has_young = repair(storage).await?;
        *settled_at = (!has_young).then_some(now);
    }
    Ok(())
}

/// The revisions of the last changes of Services and IPAddresses.
fn last_changes(caches: &Caches) -> [u64; 2] {
    [find("", "v1", "services"), find("networking.k8s.io", "v1", "ipaddresses")]
        .map(|kind| kind.and_then(|kind| caches.of(kind)).map_or(0, |resource| resource.changed()))
}

/// Allocates what Services have, and releases what no Service has. Returns whether some allocation was too young to decide.
pub(crate) async fn repair(storage: &Storage) -> Result<bool, Status> {
    storage.caches.catch_up().await.map_err(store_error)?;
    let services = services(&storage.caches);
    let held_ports = port::held(storage).await?;
    let held_addresses = address::held(&storage.caches)?;
    let known_addresses: HashSet<IpAddr> = held_addresses.iter().map(|held| held.ip).collect();
    let known_ports: HashSet<u16> = held_ports.iter().map(|(number, _)| *number).collect();
    for (owner, held) in services.values() {
        for ip in held.addresses.iter().filter(|ip| !known_addresses.contains(ip)) {
            address::hold(storage, *ip, Some(owner)).await?;
        }
        for number in held.ports.iter().filter(|number| !known_ports.contains(number)) {
            port::hold(storage, *number, Some(owner)).await?;
        }
    }
    let mut has_young = false;
    for held in held_addresses {
        let service = services.get(&(held.namespace.clone(), held.name.clone()));
        if service.is_some_and(|(_, has)| has.addresses.contains(&held.ip)) {
            continue;
        }
        if is_old(&held.since) {
            let owner = Owner { namespace: held.namespace, name: held.name, uid: String::new() };
            address::release(storage, &owner, held.ip).await?;
        } else {
            has_young = true;
        }
    }
    for (number, holding) in held_ports {
        let owner = &holding.owner;
        let service = services.get(&(owner.namespace.clone(), owner.name.clone()));
        if service.is_some_and(|(live, has)| live == owner && has.ports.contains(&number)) {
            continue;
        }
        if is_old(&holding.since) {
            port::release(storage, owner, number).await?;
        } else {
            has_young = true;
        }
    }
    Ok(has_young)
}

fn is_old(since: &str) -> bool {
    since.parse::<Timestamp>().is_ok_and(|since| Timestamp::now().duration_since(since) > MIN_AGE)
}

/// The addresses and ports of each Service, by namespace and name.
fn services(caches: &Caches) -> HashMap<(String, String), (Owner, Held)> {
    let Some(kind) = find("", "v1", "services") else { return HashMap::new() };
    let all = caches.of(kind).map(|resource| resource.list(&prefix(kind))).unwrap_or_default();
    let of = |object: Arc<Object>| {
        let value = object.value();
        let owner = Owner::of(&value);
        ((owner.namespace.clone(), owner.name.clone()), (owner, Held::of(&value)))
    };
    all.into_iter().map(of).collect()
}

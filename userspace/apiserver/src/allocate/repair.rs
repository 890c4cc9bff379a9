//! Brings what is held in line with the Services that there are: after an upgrade from a server that kept no account,
//! after a crash between two writes, after somebody deleted an IPAddress that is in use.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use skep_api::kinds::service::Held;
use skep_api::{Status, find, meta};
use tokio::time::Instant;

use super::{Owner, address, port};
use crate::Inner;
use crate::cache::ChangeKind;
use crate::object::prefix;
use crate::write::{self, store_error};

/// How often; upstream's interval.
const EVERY: Duration = Duration::from_secs(180);
/// What is younger may belong to a Service that is just being written.
const SETTLED: SignedDuration = SignedDuration::from_secs(60);

/// Repairs now and then, as long as the server lives; an address that is in use gets a deleted IPAddress back at once.
pub(crate) fn keep_repaired(server: &Arc<Inner>) {
    let server: Weak<Inner> = Arc::downgrade(server);
    tokio::spawn(async move {
        let Some(mut changes) = server.upgrade().and_then(|server| address::changes(&server)) else { return };
        let mut due = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        let mut seen = None;
        loop {
            let change = tokio::select! {
                change = changes.recv() => Some(change),
                _ = due.tick() => None,
            };
            let Some(server) = server.upgrade() else { return };
            let result = match change {
                Some(Some(change)) if change.kind == ChangeKind::Deleted => {
                    restore(&server, &change.object.value()).await
                }
                Some(Some(_)) => continue,
                // Changes were lost.
                Some(None) => match address::changes(&server) {
                    Some(new) => {
                        changes = new;
                        repair(&server).await.map(drop)
                    }
                    None => return,
                },
                None => regular(&server, &mut seen).await,
            };
            if let Err(error) = result {
                tracing::warn!(%error, "repair what Services hold");
            }
        }
    });
}

/// Holds an address again whose Service still has it.
async fn restore(server: &Inner, gone: &Value) -> Result<(), Status> {
    let (Some(services), parent) = (find("", "v1", "services"), &gone["spec"]["parentRef"]) else {
        return Ok(());
    };
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    let Ok(service) = write::find(server, services, text("namespace"), text("name")) else { return Ok(()) };
    let service = service.value();
    match meta::name(gone).parse() {
        Ok(ip) if Held::of(&service).addresses.contains(&ip) => {
            address::hold(server, ip, Some(&Owner::of(&service))).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// Looks at everything, unless nothing changed since all was well.
async fn regular(server: &Inner, seen: &mut Option<[u64; 2]>) -> Result<(), Status> {
    let now = changed(server);
    if *seen != Some(now) {
        // What is young is looked at again.
        let young = repair(server).await?;
        *seen = (!young).then_some(now);
    }
    Ok(())
}

/// When Services and IPAddresses changed last: what is known of both is repaired until then.
fn changed(server: &Inner) -> [u64; 2] {
    [find("", "v1", "services"), find("networking.k8s.io", "v1", "ipaddresses")]
        .map(|kind| kind.and_then(|kind| server.caches.of(kind)).map_or(0, |resource| resource.changed()))
}

/// Whether something was too young to judge.
pub(crate) async fn repair(server: &Inner) -> Result<bool, Status> {
    server.caches.catch_up().await.map_err(store_error)?;
    let services = services(server);
    let held_ports = port::held(server).await?;
    let held_addresses = address::held(server)?;
    let known_addresses: HashSet<IpAddr> = held_addresses.iter().map(|(ip, ..)| *ip).collect();
    let known_ports: HashSet<u16> = held_ports.iter().map(|(number, _)| *number).collect();
    for (owner, held) in services.values() {
        for ip in held.addresses.iter().filter(|ip| !known_addresses.contains(ip)) {
            address::hold(server, *ip, Some(owner)).await?;
        }
        for number in held.ports.iter().filter(|number| !known_ports.contains(number)) {
            port::hold(server, *number, Some(owner)).await?;
        }
    }
    let mut young = false;
    let nobody = Held::default();
    let held_by = |namespace: &str, name: &str| {
        services.get(&(namespace.to_owned(), name.to_owned())).map_or(&nobody, |(_, held)| held)
    };
    for (ip, namespace, name, since) in held_addresses {
        if !held_by(&namespace, &name).addresses.contains(&ip) {
            young |= !is_settled(&since);
            if is_settled(&since) {
                let owner = Owner { namespace, name, uid: String::new() };
                address::give_back(server, &owner, ip).await?;
            }
        }
    }
    for (number, holding) in held_ports {
        let owner = &holding.owner;
        let live = services.get(&(owner.namespace.clone(), owner.name.clone()));
        if live.is_some_and(|(live, held)| live == owner && held.ports.contains(&number)) {
            continue;
        }
        young |= !is_settled(&holding.since);
        if is_settled(&holding.since) {
            port::give_back(server, owner, number).await?;
        }
    }
    Ok(young)
}

fn is_settled(since: &str) -> bool {
    since.parse::<Timestamp>().is_ok_and(|since| Timestamp::now().duration_since(since) > SETTLED)
}

/// What each Service has, by namespace and name.
fn services(server: &Inner) -> HashMap<(String, String), (Owner, Held)> {
    let Some(kind) = find("", "v1", "services") else { return HashMap::new() };
    let all = server.caches.of(kind).map(|resource| resource.list(&prefix(kind))).unwrap_or_default();
    let of = |object: Arc<crate::object::Object>| {
        let value = object.value();
        let owner = Owner::of(&value);
        ((owner.namespace.clone(), owner.name.clone()), (owner, Held::of(&value)))
    };
    all.into_iter().map(of).collect()
}

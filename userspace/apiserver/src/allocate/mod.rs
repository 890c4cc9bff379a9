//! Addresses and node ports of Services: each is given to one Service at a time.
//!
//! What is given is written to the store before the Service is, under a key of its own that only one writer can make:
//! an IPAddress object for an address, an entry without a kind for a port. So several servers may allocate at once, and
//! nothing need be remembered over a restart. A [`Reservation`] ends with the write of the Service, whichever way that
//! goes; what a crash in between leaves behind, [`repair`] finds.

mod address;
mod port;
mod repair;

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use skep_api::kinds::service::{self, Family, Held};
use skep_api::{Errors, Kind, Status, find, meta};

use crate::Inner;
use crate::object::key;

pub(crate) use address::ensure_default_range;
pub(crate) use repair::{keep_repaired, repair};

/// Whose an address or a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    namespace: String,
    name: String,
    uid: String,
}

impl Owner {
    fn of(service: &Value) -> Owner {
        Owner {
            namespace: meta::namespace(service).to_owned(),
            name: meta::name(service).to_owned(),
            uid: meta::uid(service).to_owned(),
        }
    }
}

/// What was given to a Service that is not stored yet. Dropped without [`Reservation::end`] it is given back.
pub(crate) struct Reservation {
    server: Arc<Inner>,
    owner: Owner,
    given: Held,
    /// What the Service had and has no more, once it is stored.
    lost: Held,
}

/// Gives a Service what it lacks, or refuses what it asks for. `old` is what it was before an update. A dry run chooses
/// and takes nothing.
pub(crate) async fn reserve(
    server: &Arc<Inner>,
    kind: &Kind,
    object: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<Option<Reservation>, Status> {
    if !is_service(kind) {
        return Ok(None);
    }
    let invalid = |object: &Value, errors: &Errors| Status::invalid(kind, meta::name(object), errors);
    let wants = service::plan(object, old, &server.families()).map_err(|errors| invalid(object, &errors))?;
    let mut reservation = Reservation {
        server: server.clone(),
        owner: Owner::of(object),
        given: Held::default(),
        lost: Held::default(),
    };
    let mut errors = Errors::default();
    for want in &wants.addresses {
        let taken = (!dry_run).then_some(&reservation.owner);
        if let Some(ip) = address::take(server, object, want, taken, &mut errors).await? {
            service::give_address(object, want, ip);
            reservation.given.addresses.insert(ip);
        }
    }
    for want in &wants.ports {
        let taken = (!dry_run).then_some(&reservation.owner);
        if let Some(number) = port::take(server, want, taken, &reservation.given, &mut errors).await? {
            service::give_port(object, want, number);
            reservation.given.ports.insert(number);
        }
    }
    if dry_run {
        reservation.given = Held::default();
    }
    if !errors.is_empty() {
        let status = invalid(object, &errors);
        reservation.end(false).await;
        return Err(status);
    }
    if let Some(old) = old {
        service::finish(object, old);
        if !dry_run {
            reservation.lost = Held::of(old).without(&Held::of(object));
        }
    }
    Ok(Some(reservation))
}

impl Reservation {
    /// The Service was stored, or it was not.
    pub(crate) async fn end(mut self, stored: bool) {
        let given = std::mem::take(&mut self.given);
        let lost = std::mem::take(&mut self.lost);
        give_back(&self.server, &self.owner, if stored { &lost } else { &given }).await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // The client went away in the middle. Whether the Service was written is not known here, but then it is in the
        // store, and `repair` gives it again what it has.
        let given = std::mem::take(&mut self.given);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if given == Held::default() {
            return;
        }
        let (server, owner) = (self.server.clone(), self.owner.clone());
        runtime.spawn(async move {
            if !is_stored(&server, &owner).await {
                give_back(&server, &owner, &given).await;
            }
        });
    }
}

/// Whether the address that a Service asks for is held for one of its name.
pub(crate) fn is_reserved_for(server: &Inner, service: &Value) -> bool {
    let owner = Owner::of(service);
    let held = address::held(server).unwrap_or_default();
    let own = |ip: &IpAddr| {
        held.iter().any(|(held, namespace, name, _)| {
            held == ip && *namespace == owner.namespace && *name == owner.name
        })
    };
    let wanted = Held::of(service).addresses;
    !wanted.is_empty() && wanted.iter().all(own)
}

async fn is_stored(server: &Inner, owner: &Owner) -> bool {
    let Some(services) = find("", "v1", "services") else { return false };
    let at = key(services, &owner.namespace, &owner.name);
    // Unsure is as good as stored: `repair` looks again.
    server.caches.store().get(&at, None).await.map_or(true, |(entry, _)| entry.is_some())
}

/// Gives back what a Service had that is gone, and takes away the Endpoints of its name.
pub(crate) async fn release(server: &Inner, kind: &Kind, object: &Value) {
    if !is_service(kind) {
        return;
    }
    give_back(server, &Owner::of(object), &Held::of(object)).await;
    if let Some(endpoints) = find("", "v1", "endpoints") {
        let at = key(endpoints, meta::namespace(object), meta::name(object));
        match server.caches.store().delete(&at, skep_store::Expect::Any).await {
            Ok(_) | Err(skep_store::StoreError::NotFound) => {}
            Err(error) => tracing::warn!(%error, "delete the Endpoints of a Service that is gone"),
        }
    }
}

/// What cannot be given back now is found by `repair`.
async fn give_back(server: &Inner, owner: &Owner, held: &Held) {
    for ip in &held.addresses {
        if let Err(error) = address::give_back(server, owner, *ip).await {
            tracing::warn!(%error, %ip, "give back a Service's address");
        }
    }
    for number in &held.ports {
        if let Err(error) = port::give_back(server, owner, *number).await {
            tracing::warn!(%error, number, "give back a Service's node port");
        }
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Service"
}

impl Inner {
    /// The families that Services can have, the default one first.
    fn families(&self) -> Vec<Family> {
        self.config.services.cidrs.iter().map(|cidr| Family::of(cidr.ip())).collect()
    }
}

//! Addresses and node ports of Services: each is allocated to one Service at a time.
//!
//! An allocation is written to the store before its Service, under a key that only one writer can create: an IPAddress
//! object for an address, an entry without a kind for a port. So several servers may allocate at once, and nothing must be
//! remembered over a restart. A [`Reservation`] ends with the write of the Service, whether that succeeds or fails;
//! `reconcilers::service_allocations` finds what a crash in between leaves behind.

pub(crate) mod address;
pub(crate) mod owner;
pub(crate) mod port;

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use skep_api::kinds::service::{self, Family, Held};
use skep_api::{Errors, Kind, Status, find, meta};
use skep_store::{Expect, StoreError};

use crate::config::ServiceNetwork;
use crate::object::{Object, key};
use crate::stored::Storage;
use owner::Owner;

/// Allocates from the ranges of the cluster's Service network.
pub(crate) struct Allocator {
    pub(crate) storage: Storage,
    pub(crate) network: ServiceNetwork,
}

/// Allocations of a Service that is not stored yet. Dropped without [`Reservation::end`] they are released.
pub(crate) struct Reservation {
    allocator: Arc<Allocator>,
    owner: Owner,
    added: Held,
    /// Allocations of the stored Service that its new version no longer has.
    removed: Held,
}

impl Allocator {
    /// Allocates what a Service lacks, or refuses what it asks for. `old` is its stored version, for an update. A dry run
    /// chooses and allocates nothing. `None` for objects of other kinds.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        kind: &Kind,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Option<Reservation>, Status> {
        if !is_service(kind) {
            return Ok(None);
        }
        let invalid = |object: &Value, errors: &Errors| Status::invalid(kind, meta::name(object), errors);
        let wants =
            service::plan(object, old, &self.families()).map_err(|errors| invalid(object, &errors))?;
        let mut reservation = Reservation {
            allocator: self.clone(),
            owner: Owner::of(object),
            added: Held::default(),
            removed: Held::default(),
        };
        let mut errors = Errors::default();
        for want in &wants.addresses {
            let owner = (!dry_run).then_some(&reservation.owner);
            if let Some(ip) = address::take(&self.storage, object, want, owner, &mut errors).await? {
                service::give_address(object, want, ip);
                reservation.added.addresses.insert(ip);
            }
        }
        let ports = port::Range { storage: &self.storage, numbers: &self.network.node_ports };
        for want in &wants.ports {
            let owner = (!dry_run).then_some(&reservation.owner);
            if let Some(number) = ports.take(want, owner, &reservation.added, &mut errors).await? {
                service::give_port(object, want, number);
                reservation.added.ports.insert(number);
            }
        }
        if dry_run {
            reservation.added = Held::default();
        }
        if !errors.is_empty() {
            let status = invalid(object, &errors);
            reservation.end(false).await;
            return Err(status);
        }
        if let Some(old) = old {
            service::finish(object, old);
            if !dry_run {
                reservation.removed = Held::of(old).without(&Held::of(object));
            }
        }
        Ok(Some(reservation))
    }

    /// Releases the allocations of a removed Service, and deletes the Endpoints of its name.
    pub(crate) async fn release(&self, kind: &Kind, removed: &Object) {
        if !is_service(kind) {
            return;
        }
        let service = removed.value();
        self.release_all(&Owner::of(&service), &Held::of(&service)).await;
        if let Some(endpoints) = find("", "v1", "endpoints") {
            let at = key(endpoints, meta::namespace(&service), meta::name(&service));
            match self.storage.caches.store().delete(&at, Expect::Any).await {
                Ok(_) | Err(StoreError::NotFound) => {}
                Err(error) => tracing::warn!(key = at, %error, "delete endpoints of removed service failed"),
            }
        }
    }

    /// Whether the addresses that a Service asks for are allocated to a Service of its name.
    pub(crate) fn is_reserved_for(&self, service: &Value) -> bool {
        let owner = Owner::of(service);
        let held = address::held(&self.storage.caches).unwrap_or_default();
        let own = |ip: &IpAddr| {
            held.iter()
                .any(|held| held.ip == *ip && held.namespace == owner.namespace && held.name == owner.name)
        };
        let wanted = Held::of(service).addresses;
        !wanted.is_empty() && wanted.iter().all(own)
    }

    /// A failed release is repaired by `reconcilers::service_allocations`.
    async fn release_all(&self, owner: &Owner, held: &Held) {
        for ip in &held.addresses {
            if let Err(error) = address::release(&self.storage, owner, *ip).await {
                tracing::warn!(namespace = owner.namespace, service = owner.name, %ip, %error, "release cluster IP failed");
            }
        }
        for number in &held.ports {
            if let Err(error) = port::release(&self.storage, owner, *number).await {
                tracing::warn!(namespace = owner.namespace, service = owner.name, port = number, %error, "release node port failed");
            }
        }
    }

    async fn is_stored(&self, owner: &Owner) -> bool {
        let Some(services) = find("", "v1", "services") else { return false };
        let at = key(services, &owner.namespace, &owner.name);
        // If the store does not answer, the allocations stay: the reconciler looks again.
        self.storage.caches.store().get(&at, None).await.map_or(true, |(entry, _)| entry.is_some())
    }

    /// The families that Services can have, the default one first.
    fn families(&self) -> Vec<Family> {
        self.network.cidrs.iter().map(|cidr| Family::of(cidr.ip())).collect()
    }
}

impl Reservation {
    /// Keeps the allocations if the Service was stored, releases them if not.
    pub(crate) async fn end(mut self, stored: bool) {
        let added = std::mem::take(&mut self.added);
        let removed = std::mem::take(&mut self.removed);
        self.allocator.release_all(&self.owner, if stored { &removed } else { &added }).await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // The request was cancelled. Whether its write reached the store is not known here: look there.
        let added = std::mem::take(&mut self.added);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if added == Held::default() {
            return;
        }
        let (allocator, owner) = (self.allocator.clone(), self.owner.clone());
        runtime.spawn(async move {
            if !allocator.is_stored(&owner).await {
                allocator.release_all(&owner, &added).await;
            }
        });
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Service"
}

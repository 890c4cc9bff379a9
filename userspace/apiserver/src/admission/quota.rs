//! ResourceQuota, the last step: a write is charged to every quota that applies to it, or refused.
//!
//! A charge is a compare-and-swap of the quota's status, so that concurrent writes cannot together exceed it. Writes of one
//! server to one namespace charge one after the other; writes of other servers and the controller appear as conflicts.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use skep_api::quota::{Meter, charge as charged, negative};
use skep_api::resources::Resources;
use skep_api::{Status, find, meta};
use skep_store::{Expect, StoreError};

use super::request::{Operation, Request};
use crate::cache::Caches;
use crate::object::{Object, to_stored};
use crate::stored::store_error;

/// Attempts to write a quota against concurrent writers.
const TRIES: usize = 16;

/// The charges of one write; refunded if the object is not stored.
#[derive(Default)]
#[must_use]
pub(crate) struct Charge(Vec<(Arc<str>, Resources)>);

impl Charge {
    /// A failed refund is corrected by the quota controller, which recounts usage.
    pub(crate) async fn refund(self, caches: &Caches) {
        let Some(kind) = find("", "v1", "resourcequotas") else { return };
        for (key, added) in self.0 {
            for _ in 0..TRIES {
                if caches.catch_up().await.is_err() {
                    return;
                }
                let Some(quota) = caches.of(kind).and_then(|quotas| quotas.get(&key)) else { break };
                let mut used = Resources::of(&quota.value()["status"]["used"]);
                used.subtract(&added);
                match put(caches, &quota, &used).await {
                    Err(StoreError::Conflict { .. }) => {}
                    _ => break,
                }
            }
        }
    }
}

async fn put(caches: &Caches, quota: &Object, used: &Resources) -> Result<(), StoreError> {
    let mut value = quota.value();
    value["status"]["used"] = used.to_value();
    let entry = caches.store().put(&quota.key, to_stored(&value), Expect::Revision(quota.revision)).await?;
    // The next charge reads what this one wrote.
    caches.wait_for(entry.modified).await.map(drop)
}

pub(super) async fn charge(request: &Request<'_>, object: &Value) -> Result<Charge, Status> {
    let (kind, namespace) = (request.kind(), request.namespace());
    if namespace.is_empty() || request.operation == Operation::Delete || quotas(request).is_empty() {
        return Ok(Charge::default());
    }
    let Some(meter) = Meter::of(&kind.group, &kind.plural) else { return Ok(Charge::default()) };
    if !meter.handles(request.subresource(), object, request.old) {
        return Ok(Charge::default());
    }
    let below = meter.usage(object, Timestamp::now());
    let below = negative(&below);
    if !below.is_empty() {
        let why = format!("quota usage is negative for resource(s): {}", below.join(","));
        return Err(request.forbidden(object, why));
    }
    let lock = request.admission.quota_locks.of(namespace);
    let _held = lock.lock().await;
    let mut done = Charge::default();
    match charge_all(request, object, &meter, &mut done).await {
        Ok(()) => Ok(done),
        Err(status) => {
            done.refund(&request.admission.storage.caches).await;
            Err(status)
        }
    }
}

fn quotas(request: &Request<'_>) -> Vec<Arc<Object>> {
    request.list("", "v1", "resourcequotas", request.namespace())
}

/// Checks all quotas, then charges one after the other. On failure `done` has the charges made so far.
async fn charge_all(
    request: &Request<'_>,
    object: &Value,
    meter: &Meter,
    done: &mut Charge,
) -> Result<(), Status> {
    let caches = &request.admission.storage.caches;
    for _ in 0..TRIES {
        caches.catch_up().await.map_err(store_error)?;
        let mut wanted = Vec::new();
        let present = quotas(request);
        for quota in present.iter().filter(|quota| done.0.iter().all(|(key, _)| *key != quota.key)) {
            let value = quota.value();
            let falls = meter.applies(&value, object).map_err(|why| request.forbidden(object, why))?;
            if falls {
                wanted.push((quota, value));
            }
        }
        let now = Timestamp::now();
        let mut charges = Vec::new();
        for (quota, value) in wanted {
            let added = meter.added(&value, object, request.old, now);
            if added.is_empty() {
                continue;
            }
            let used = match charged(&value, &added) {
                Ok(used) => used,
                // A status reports usage that exists already: it is counted, not refused.
                Err(_) if request.subresource() == "status" => {
                    let mut used = Resources::of(&value["status"]["used"]);
                    used.add(&added);
                    used
                }
                Err(why) => return Err(request.forbidden(object, why)),
            };
            charges.push((quota, added, used));
        }
        if request.dry_run {
            return Ok(());
        }
        let mut raced = false;
        for (quota, added, used) in charges {
            match put(caches, quota, &used).await {
                Ok(()) => done.0.push((quota.key.clone(), added)),
                Err(StoreError::Conflict { .. } | StoreError::NotFound) => raced = true,
                Err(error) => return Err(store_error(error)),
            }
        }
        if !raced {
            return Ok(());
        }
    }
    let Some(kind) = find("", "v1", "resourcequotas") else { return Ok(()) };
    Err(Status::stale(kind, meta::name(object)))
}

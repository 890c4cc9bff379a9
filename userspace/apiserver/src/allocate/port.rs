//! Node ports, the health check's among them: each held by an entry of the store.

use std::collections::BTreeSet;

use rand::Rng as _;
use serde_json::{Value, json};
use skep_api::field::Path;
use skep_api::kinds::service::{Held, PortPlace, PortWant};
use skep_api::{Errors, Status};
use skep_store::{Entry, Expect, StoreError};

use super::Owner;
use crate::Inner;
use crate::write::{now, store_error};

const PREFIX: &str = "/registry/ranges/servicenodeports/";
/// Random tries before the range is read.
const TRIES: usize = 16;

fn key(number: u16) -> String {
    format!("{PREFIX}{number}")
}

/// The wanted number, taken in the store for `owner`; without one only chosen. `own`: what this Service already got.
pub(super) async fn take(
    server: &Inner,
    want: &PortWant,
    owner: Option<&Owner>,
    own: &Held,
    errors: &mut Errors,
) -> Result<Option<u16>, Status> {
    let Some(number) = want.asked else { return take_any(server, want, owner, own).await.map(Some) };
    let range = &server.config.services.node_ports;
    let refusal = if !range.contains(&number) {
        let (first, last) = (range.start(), range.end());
        format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
    } else if own.ports.contains(&number) || hold(server, number, owner).await? {
        return Ok(Some(number));
    } else {
        "provided port is already allocated".to_owned()
    };
    match want.places.first() {
        Some(PortPlace::Port(index)) => {
            let path = Path::new("spec").child("ports").index(*index).child("nodePort");
            errors.invalid(&path, &json!(number), &refusal);
            Ok(None)
        }
        _ => Err(Status::internal(format!(
            "failed to allocate requested HealthCheck NodePort {number}: {refusal}"
        ))),
    }
}

async fn take_any(server: &Inner, want: &PortWant, owner: Option<&Owner>, own: &Held) -> Result<u16, Status> {
    let range = server.config.services.node_ports.clone();
    let upper = upper(*range.start(), *range.end());
    for _ in 0..TRIES {
        let number = rand::rng().random_range(upper..=*range.end());
        if !own.ports.contains(&number) && hold(server, number, owner).await? {
            return Ok(number);
        }
    }
    let taken: BTreeSet<u16> = held(server).await?.into_iter().map(|(number, _)| number).collect();
    let from = rand::rng().random_range(upper..=*range.end());
    for number in (from..=*range.end()).chain(upper..from).chain(*range.start()..upper) {
        if !taken.contains(&number) && !own.ports.contains(&number) && hold(server, number, owner).await? {
            return Ok(number);
        }
    }
    Err(Status::internal(match want.places.first() {
        Some(PortPlace::HealthCheck) => "failed to allocate a HealthCheck NodePort 0: range is full",
        _ => "failed to allocate a nodePort: range is full",
    }))
}

/// The first number that is given unasked: those below are left to those who ask (KEP-3668).
fn upper(first: u16, last: u16) -> u16 {
    let size = last.saturating_sub(first).saturating_add(1);
    if size <= 16 { first } else { first + (size / 32).clamp(16, 128) }
}

/// Makes the number its owner's; false if it is somebody's.
pub(super) async fn hold(server: &Inner, number: u16, owner: Option<&Owner>) -> Result<bool, Status> {
    let (store, at) = (server.caches.store(), key(number));
    let Some(owner) = owner else {
        return store.get(&at, None).await.map(|(entry, _)| entry.is_none()).map_err(store_error);
    };
    let value = json!({"namespace": owner.namespace, "name": owner.name, "uid": owner.uid, "since": now()});
    match store.put(&at, value.to_string().into(), Expect::Absent).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(store_error(error)),
    }
}

/// Takes the number from its owner; another's stays.
pub(super) async fn give_back(server: &Inner, owner: &Owner, number: u16) -> Result<(), Status> {
    let (store, at) = (server.caches.store(), key(number));
    let (Some(entry), _) = store.get(&at, None).await.map_err(store_error)? else { return Ok(()) };
    if Holding::read(&entry).owner != *owner {
        return Ok(());
    }
    match store.delete(&at, Expect::Revision(entry.modified)).await {
        Ok(_) | Err(StoreError::NotFound | StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}

/// A number that is taken.
pub(super) struct Holding {
    pub(super) owner: Owner,
    pub(super) since: String,
}

impl Holding {
    fn read(entry: &Entry) -> Holding {
        let value: Value = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let owner = Owner { namespace: text("namespace"), name: text("name"), uid: text("uid") };
        Holding { owner, since: text("since") }
    }
}

/// Every number that is taken.
pub(super) async fn held(server: &Inner) -> Result<Vec<(u16, Holding)>, Status> {
    let all = server.caches.store().range(PREFIX, None, 0, None).await.map_err(store_error)?;
    let of = |entry: &Entry| Some((entry.key.strip_prefix(PREFIX)?.parse().ok()?, Holding::read(entry)));
    Ok(all.entries.iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_range_is_left_to_those_who_ask() {
        assert_eq!(
            (upper(30_000, 32_767), upper(30_000, 30_015), upper(30_000, 30_099)),
            (30_086, 30_000, 30_016)
        );
    }
}

//! Node ports and health check node ports. An entry of the store holds each.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use rand::Rng as _;
use serde_json::{Value, json};
use skep_api::field::Path;
use skep_api::kinds::service::{Held, PortPlace, PortWant};
use skep_api::{Errors, Status};
use skep_store::{Entry, Expect, StoreError};

use super::owner::Owner;
use crate::clock::now;
use crate::stored::{Storage, store_error};

const PREFIX: &str = "/registry/ranges/servicenodeports/";
/// Random tries before all allocated ports are read.
const RANDOM_TRIES: usize = 16;

fn key(number: u16) -> String {
    format!("{PREFIX}{number}")
}

/// The node ports of the cluster.
pub(crate) struct Range<'a> {
    pub(crate) storage: &'a Storage,
    pub(crate) numbers: &'a RangeInclusive<u16>,
}

impl Range<'_> {
    /// The wanted number, allocated in the store to `owner`; without an owner it is only chosen. `own`: numbers that this
    /// Service already got. A refusal goes to `errors`.
    pub(crate) async fn take(
        &self,
        want: &PortWant,
        owner: Option<&Owner>,
        own: &Held,
        errors: &mut Errors,
    ) -> Result<Option<u16>, Status> {
        let Some(number) = want.asked else { return self.take_any(want, owner, own).await.map(Some) };
        let refusal = if !self.numbers.contains(&number) {
            let (first, last) = (self.numbers.start(), self.numbers.end());
            format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
        } else if own.ports.contains(&number) || hold(self.storage, number, owner).await? {
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

    async fn take_any(&self, want: &PortWant, owner: Option<&Owner>, own: &Held) -> Result<u16, Status> {
        let (first, last) = (*self.numbers.start(), *self.numbers.end());
        let upper = upper(first, last);
        for _ in 0..RANDOM_TRIES {
            let number = rand::rng().random_range(upper..=last);
            if !own.ports.contains(&number) && hold(self.storage, number, owner).await? {
                return Ok(number);
            }
        }
        let taken: BTreeSet<u16> = held(self.storage).await?.into_iter().map(|(number, _)| number).collect();
        let from = rand::rng().random_range(upper..=last);
        for number in (from..=last).chain(upper..from).chain(first..upper) {
            let is_free = !taken.contains(&number) && !own.ports.contains(&number);
            if is_free && hold(self.storage, number, owner).await? {
                return Ok(number);
            }
        }
        Err(Status::internal(match want.places.first() {
            Some(PortPlace::HealthCheck) => "failed to allocate a HealthCheck NodePort 0: range is full",
            _ => "failed to allocate a nodePort: range is full",
        }))
    }
}

/// The first number of the upper part. The lower part is for requested ports (KEP-3668).
fn upper(first: u16, last: u16) -> u16 {
    let size = last.saturating_sub(first).saturating_add(1);
    if size <= 16 { first } else { first + (size / 32).clamp(16, 128) }
}

/// Allocates the number to `owner`; false if it is allocated already.
pub(crate) async fn hold(storage: &Storage, number: u16, owner: Option<&Owner>) -> Result<bool, Status> {
    let (store, at) = (storage.caches.store(), key(number));
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

/// Releases the number if `owner` has it.
pub(crate) async fn release(storage: &Storage, owner: &Owner, number: u16) -> Result<(), Status> {
    let (store, at) = (storage.caches.store(), key(number));
    let (Some(entry), _) = store.get(&at, None).await.map_err(store_error)? else { return Ok(()) };
    if Holding::read(&entry).owner != *owner {
        return Ok(());
    }
    match store.delete(&at, Expect::Revision(entry.modified)).await {
        Ok(_) | Err(StoreError::NotFound | StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}

/// An allocated port.
pub(crate) struct Holding {
    pub(crate) owner: Owner,
    pub(crate) since: String,
}

impl Holding {
    fn read(entry: &Entry) -> Holding {
        let value: Value = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let owner = Owner { namespace: text("namespace"), name: text("name"), uid: text("uid") };
        Holding { owner, since: text("since") }
    }
}

/// All allocated ports.
pub(crate) async fn held(storage: &Storage) -> Result<Vec<(u16, Holding)>, Status> {
    let all = storage.caches.store().range(PREFIX, None, 0, None).await.map_err(store_error)?;
    let of = |entry: &Entry| Some((entry.key.strip_prefix(PREFIX)?.parse().ok()?, Holding::read(entry)));
    Ok(all.entries.iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_part_of_the_range_is_for_requested_ports() {
        assert_eq!(
            (upper(30_000, 32_767), upper(30_000, 30_015), upper(30_000, 30_099)),
            (30_086, 30_000, 30_016)
        );
    }
}

//! A store that encrypts (seals) the values below one prefix before another store keeps them.
//!
//! In and out: plain values. The disk, etcd and their history have only sealed ones, which nothing opens without a key.

mod keyring;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Entry, Event, Expect, Range, Result, Revision, Store, StoreError, Watch};
use keyring::{is_sealed, is_sealed_by};

pub use keyring::{BadKeyring, Keyring};

/// Wraps a store; see the module.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    opener: Arc<Opener>,
}

/// Opens values below the prefix, and leaves others unchanged.
struct Opener {
    prefix: String,
    keyring: Keyring,
}

/// Whether any value with `prefix` is sealed. If so, a start without the old keys must fail, and not make new ones.
pub async fn holds_sealed(store: &dyn Store, prefix: &str) -> Result<bool> {
    Ok(store.range(prefix, None, 0, None).await?.entries.iter().any(|entry| is_sealed(&entry.value)))
}

impl SealedStore {
    /// Values of keys with `prefix` are sealed.
    pub fn new(inner: Arc<dyn Store>, prefix: &str, keyring: Keyring) -> SealedStore {
        SealedStore { inner, opener: Arc::new(Opener { prefix: prefix.to_owned(), keyring }) }
    }

    /// Writes again every value that is not sealed with the first key; returns their number. Fails if a value does not open.
    pub async fn reseal(&self) -> Result<usize> {
        let (prefix, keyring) = (&self.opener.prefix, &self.opener.keyring);
        let stored = self.inner.range(prefix, None, 0, None).await?;
        let mut resealed = 0;
        for entry in stored.entries {
            let plain = keyring.open(&entry.key, &entry.value)?;
            if is_sealed_by(&entry.value, keyring.id()) {
                continue;
            }
            let sealed = keyring.seal(&entry.key, &plain)?;
            match self.inner.put(&entry.key, sealed, Expect::Revision(entry.modified)).await {
                Ok(_) => resealed += 1,
                // Another server resealed it or wrote a new value, with the first key too.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(resealed)
    }

    fn seal(&self, key: &str, value: Bytes) -> Result<Bytes> {
        if key.starts_with(&self.opener.prefix) { self.opener.keyring.seal(key, &value) } else { Ok(value) }
    }
}

impl Opener {
    fn entry(&self, mut entry: Entry) -> Result<Entry> {
        if entry.key.starts_with(&self.prefix) {
            entry.value = self.keyring.open(&entry.key, &entry.value)?;
        }
        Ok(entry)
    }

    fn event(&self, event: Event) -> Result<Event> {
        Ok(match event {
            Event::Put { entry, previous } => {
                let previous = previous.map(|previous| self.entry(previous)).transpose()?;
                Event::Put { entry: self.entry(entry)?, previous }
            }
            Event::Delete { previous, revision } => {
                Event::Delete { previous: self.entry(previous)?, revision }
            }
        })
    }

    /// A conflict carries the existing entry.
    fn error(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Conflict { actual: Some(actual) } => match self.entry(actual) {
                Ok(actual) => StoreError::Conflict { actual: Some(actual) },
                Err(error) => error,
            },
            error => error,
        }
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
        let (entry, revision) = self.inner.get(key, at).await?;
        Ok((entry.map(|entry| self.opener.entry(entry)).transpose()?, revision))
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let range = self.inner.range(prefix, start_after, limit, at).await?;
        let entries: Result<Vec<Entry>> =
            range.entries.into_iter().map(|entry| self.opener.entry(entry)).collect();
        Ok(Range { entries: entries?, ..range })
    }

    async fn count(&self, prefix: &str, start_after: Option<&str>, at: Option<Revision>) -> Result<u64> {
        self.inner.count(prefix, start_after, at).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Entry> {
        let sealed = self.seal(key, value.clone())?;
        match self.inner.put(key, sealed, expect).await {
            Ok(entry) => Ok(Entry { value, ..entry }),
            Err(error) => Err(self.opener.error(error)),
        }
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision)> {
        match self.inner.delete(key, expect).await {
            Ok((entry, revision)) => Ok((self.opener.entry(entry)?, revision)),
            Err(error) => Err(self.opener.error(error)),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let opener = self.opener.clone();
        Ok(self.inner.watch(prefix, after).await?.map_events(move |event| opener.event(event)))
    }

    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }

    async fn compact(&self, before: Revision) -> Result<()> {
        self.inner.compact(before).await
    }
}

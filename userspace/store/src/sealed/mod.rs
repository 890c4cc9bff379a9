//! A store that encrypts (seals) the values below one prefix before another store keeps them.
//!
//! In and out: plain values. The disk, etcd and their history have only sealed ones, which nothing opens without a key. A
//! value that this server cannot open is given as [`Entry::unreadable`] and can be overwritten and deleted like any other.

mod keyring;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Entry, Event, Expect, Range, Result, Revision, Store, StoreError, Watch};
use keyring::{is_current, is_sealed};

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

/// What [`SealedStore::reseal`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Values that were written again, with the first key.
    pub written: usize,
    /// Values that no key of this server opens. They are left as they are.
    pub unreadable: usize,
}

impl SealedStore {
    /// Values of keys with `prefix` are sealed.
    pub fn new(inner: Arc<dyn Store>, prefix: &str, keyring: Keyring) -> SealedStore {
        SealedStore { inner, opener: Arc::new(Opener { prefix: prefix.to_owned(), keyring }) }
    }

    /// Writes again every value that is not sealed with the first key. A value that does not open is left as it is.
    pub async fn reseal(&self) -> Result<Resealed> {
        let (prefix, keyring) = (&self.opener.prefix, &self.opener.keyring);
        let stored = self.inner.range(prefix, None, 0, None).await?;
        let mut resealed = Resealed::default();
        for entry in stored.entries {
            let plain = match keyring.open(&entry.key, &entry.value) {
                Ok(plain) => plain,
                Err(error) => {
                    tracing::warn!(key = %entry.key, %error, "open sealed value failed");
                    resealed.unreadable += 1;
                    continue;
                }
            };
            if is_current(&entry.value, keyring.id()) {
                continue;
            }
            let sealed = keyring.seal(&entry.key, &plain)?;
            match self.inner.put(&entry.key, sealed, Expect::Revision(entry.modified)).await {
                Ok(_) => resealed.written += 1,
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
    /// An entry that does not open is marked: one bad value must not end a list or a watch of all others.
    fn entry(&self, mut entry: Entry) -> Entry {
        if entry.key.starts_with(&self.prefix) {
            entry.value = match self.keyring.open(&entry.key, &entry.value) {
                Ok(plain) => plain,
                Err(error) => Entry::unreadable_value(&error.to_string()),
            };
        }
        entry
    }

    fn event(&self, event: Event) -> Event {
        match event {
            Event::Put { entry, previous } => Event::Put {
                entry: self.entry(entry),
                previous: previous.map(|previous| self.entry(previous)),
            },
            Event::Delete { previous, revision } => {
                Event::Delete { previous: self.entry(previous), revision }
            }
        }
    }

    /// A conflict carries the existing entry.
    fn error(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Conflict { actual } => {
                StoreError::Conflict { actual: actual.map(|actual| self.entry(actual)) }
            }
            error => error,
        }
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Entry>, Revision)> {
        let (entry, revision) = self.inner.get(key, at).await?;
        Ok((entry.map(|entry| self.opener.entry(entry)), revision))
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range> {
        let range = self.inner.range(prefix, start_after, limit, at).await?;
        let entries = range.entries.into_iter().map(|entry| self.opener.entry(entry)).collect();
        Ok(Range { entries, ..range })
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
            Ok((entry, revision)) => Ok((self.opener.entry(entry), revision)),
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

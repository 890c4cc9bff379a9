//! Entries of a backup into a new store.

use std::io::Read;
use std::path::Path;

use super::archive::{Decoder, PREFIX, Part};
use super::error::BackupError;
use crate::embedded::Restoring;
use crate::etcd::EtcdStore;
use crate::{Entry, Revision, Store as _, StoreError};

/// Entries and bytes of one transaction: below etcd's limits of 128 operations and 1.5 MiB.
const MAX_TRANSACTION_ENTRIES: usize = 100;
const MAX_TRANSACTION_BYTES: usize = 1 << 20;

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub entries: u64,
    /// The store's revision after it.
    pub revision: Revision,
}

impl<R: Read> Decoder<R> {
    /// The next entry; passes over files.
    fn next_entry(&mut self) -> Result<Option<Entry>, BackupError> {
        loop {
            match self.next()? {
                Some(Part::Entry(entry)) => return Ok(Some(entry)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

/// Makes the file of an embedded store, which must not exist. Entries keep their revisions. The store's own revision is
/// `bump` above the backup's, and all before is compacted: who watched what was written after the backup starts again.
/// The file appears only when it is complete.
pub fn restore_embedded<R: Read>(
    mut backup: Decoder<R>,
    path: &Path,
    bump: Revision,
) -> Result<Fill, BackupError> {
    let Some(Part::Manifest(manifest)) = backup.next()? else { return Err(BackupError::Foreign) };
    let revision = manifest.revision.saturating_add(bump);
    let mut restoring = Restoring::begin(path)?;
    let mut entries = 0;
    while let Some(entry) = backup.next_entry()? {
        restoring.insert(&entry)?;
        entries += 1;
    }
    restoring.finish(revision)?;
    Ok(Fill { entries, revision })
}

/// Writes the entries into an etcd without any, in etcd's own revisions. Then raises etcd's revision to `bump` above the
/// backup's by as many writes, so that no watcher takes a new revision for an older one that it knows.
pub async fn restore_etcd<R: Read>(
    mut backup: Decoder<R>,
    store: &EtcdStore,
    bump: Revision,
) -> Result<Fill, BackupError> {
    let Some(Part::Manifest(manifest)) = backup.next()? else { return Err(BackupError::Foreign) };
    if store.count(PREFIX, None, None).await? > 0 {
        let why = "etcd has keys already; restore into an empty one".to_owned();
        return Err(StoreError::Unavailable(why).into());
    }
    let (mut entries, mut batch, mut bytes) = (0, Vec::new(), 0);
    while let Some(entry) = backup.next_entry()? {
        bytes += entry.key.len() + entry.value.len();
        entries += 1;
        if batch.len() == MAX_TRANSACTION_ENTRIES || (bytes > MAX_TRANSACTION_BYTES && !batch.is_empty()) {
            bytes = entry.key.len() + entry.value.len();
            store.put_all(std::mem::take(&mut batch)).await?;
        }
        batch.push(entry);
    }
    store.put_all(batch).await?;
    let revision = store.raise_revision(manifest.revision.saturating_add(bump)).await?;
    Ok(Fill { entries, revision })
}

//! Backups: every entry at one revision and the files that a server needs beside them, in one checksummed file.
//!
//! In: a store, read page by page at one revision while it is written; files. Out: an archive, and the same from it. Values
//! are as stored: what is sealed stays sealed, so the files must include the keys. An archive of either store restores
//! into either.

mod archive;
mod error;
mod restore;

use async_trait::async_trait;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

pub use self::archive::{Decoder, File, Manifest, Part, Summary, verify};
use self::archive::{Encoder, PREFIX};
pub use self::error::BackupError;
pub use self::restore::{Fill, restore_embedded, restore_etcd};
use crate::{Range, Result, Revision, Store};

/// Entries of one page. They are in memory together.
const PAGE_ENTRIES: usize = 500;

/// All entries at one revision, in pages.
#[async_trait]
pub trait Pages: Send + Sync {
    /// At most `limit` entries that follow a key; every page has the same revision.
    async fn page(&self, start_after: Option<&str>, limit: usize) -> Result<Range>;
}

/// The entries of any store at a revision, which must not be compacted before the last page.
pub struct AtRevision<'a> {
    store: &'a dyn Store,
    revision: Revision,
}

impl<'a> AtRevision<'a> {
    /// At the current revision.
    pub async fn now(store: &'a dyn Store) -> Result<AtRevision<'a>> {
        Ok(AtRevision { store, revision: store.revision().await? })
    }
}

#[async_trait]
impl Pages for AtRevision<'_> {
    async fn page(&self, start_after: Option<&str>, limit: usize) -> Result<Range> {
        self.store.range(PREFIX, start_after, limit, Some(self.revision)).await
    }
}

/// Writes an archive; what it holds. Only with its end is it one: a reader refuses every other.
pub async fn write(
    pages: &dyn Pages,
    made: u64,
    files: &[File],
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<Summary, BackupError> {
    let mut page = pages.page(None, PAGE_ENTRIES).await?;
    let manifest = Manifest { revision: page.revision, made };
    let mut buffer = Vec::new();
    let mut encoder = Encoder::new(manifest, &mut buffer);
    for file in files {
        encoder.file(file, &mut buffer)?;
    }
    loop {
        for entry in &page.entries {
            encoder.entry(entry, &mut buffer)?;
        }
        out.write_all(&buffer).await?;
        buffer.clear();
        let Some(last) = page.entries.last().filter(|_| page.more) else { break };
        page = pages.page(Some(&last.key), PAGE_ENTRIES).await?;
    }
    let summary = encoder.finish(&mut buffer);
    out.write_all(&buffer).await?;
    out.flush().await?;
    Ok(summary)
}

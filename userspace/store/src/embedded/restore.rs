//! A new store from entries: the tables without a log.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use redb::{Database, WriteTransaction};

use super::checkpoint::{begin, prepare};
use super::disk::{Disk, OsDisk};
use super::failure::{database_error, file_error};
use super::format::{COMPACTED, CURRENT, META, OBJECTS};
use super::throttled_file::ThrottledFile;
use crate::record::encode_entry;
use crate::{Entry, Result, Revision, StoreError};

/// One transaction in a file of another name, which gets the store's name when it is complete.
pub(crate) struct Restoring {
    path: PathBuf,
    unfinished: PathBuf,
    database: Database,
    transaction: WriteTransaction,
}

impl Restoring {
    /// Refuses a path that exists.
    pub(crate) fn begin(path: &Path) -> Result<Restoring> {
        if path.exists() {
            return Err(StoreError::Unavailable(format!("{} exists already", path.display())));
        }
        let mut unfinished: OsString = path.into();
        unfinished.push(".restoring");
        let unfinished = PathBuf::from(unfinished);
        // What an interrupted attempt left.
        let _ = OsDisk.remove(&unfinished);
        let file = OsDisk.open_tables(&unfinished).map_err(file_error)?;
        let database =
            Database::builder().create_with_backend(ThrottledFile::new(file)).map_err(database_error)?;
        prepare(&database)?;
        let transaction = begin(&database)?;
        Ok(Restoring { path: path.to_owned(), unfinished, database, transaction })
    }

    pub(crate) fn insert(&mut self, entry: &Entry) -> Result<()> {
        let mut objects = self.transaction.open_table(OBJECTS).map_err(database_error)?;
        objects.insert(&*entry.key, encode_entry(entry).as_slice()).map_err(database_error)?;
        Ok(())
    }

    /// Durable when it returns. All before `revision` is compacted.
    pub(crate) fn finish(self, revision: Revision) -> Result<()> {
        let Restoring { path, unfinished, database, transaction } = self;
        {
            let mut meta = transaction.open_table(META).map_err(database_error)?;
            meta.insert(CURRENT, revision).map_err(database_error)?;
            meta.insert(COMPACTED, revision).map_err(database_error)?;
        }
        transaction.commit().map_err(database_error)?;
        database.close().map_err(database_error)?;
        OsDisk.rename(&unfinished, &path).map_err(file_error)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        OsDisk.sync_folder(folder.unwrap_or(Path::new("."))).map_err(file_error)
    }
}

//! Names of the log's files. They are in the folder of the tables' file and begin with its name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::disk::Disk;
use super::super::failure::file_error;
use crate::{Result, Revision, StoreError};

/// `tables` is the path of the tables' file.
pub(super) fn segment_name(tables: &Path, suffix: &str) -> OsString {
    let mut name = tables.as_os_str().to_owned();
    name.push(".log-");
    name.push(suffix);
    name
}

pub(super) fn segment_path(tables: &Path, first: Revision) -> PathBuf {
    segment_name(tables, &format!("{first:020}")).into()
}

pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The segments and their first revisions, in order.
pub(super) fn segments(disk: &dyn Disk, tables: &Path) -> Result<Vec<(PathBuf, Revision)>> {
    let folder = folder(tables);
    let prefix = segment_name(tables, "");
    let mut found = Vec::new();
    for name in disk.names(folder).map_err(file_error)? {
        let path = folder.join(name);
        let name = path.as_os_str().to_string_lossy();
        let first = name.strip_prefix(&*prefix.to_string_lossy()).and_then(|first| first.parse().ok());
        if let Some(first) = first {
            found.push((path.clone(), first));
        }
    }
    found.sort_by_key(|(_, first)| *first);
    Ok(found)
}

pub(super) fn damaged(path: &Path, why: &str) -> StoreError {
    StoreError::Corrupt(format!("the log {}: {why}", path.display()))
}

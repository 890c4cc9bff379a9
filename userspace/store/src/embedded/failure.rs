//! Errors of redb and of files, as the store's errors.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Result, StoreError};

/// After `Unavailable` and `Full` the open database is unusable: it must be opened again.
pub(super) fn database_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Corrupt(what),
        redb::Error::Io(error) if is_full(error.kind()) => StoreError::Full(error.to_string()),
        redb::Error::DatabaseAlreadyOpen => {
            StoreError::Unavailable("another process has the database open".to_owned())
        }
        error => StoreError::Unavailable(error.to_string()),
    }
}

/// Errors of the log's files.
pub(super) fn file_error(error: io::Error) -> StoreError {
    if is_full(error.kind()) {
        StoreError::Full(error.to_string())
    } else {
        StoreError::Unavailable(error.to_string())
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// redb asserts invariants that a damaged file can break. That is damage, not a reason to end the process.
pub(super) fn catch_panics<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(StoreError::Corrupt(format!("the database engine failed: {why}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_engine_is_damage() {
        let damage = catch_panics::<()>(|| panic!("page {} is torn", 7));
        assert!(matches!(damage, Err(StoreError::Corrupt(why)) if why.contains("page 7 is torn")));
    }

    #[test]
    fn running_out_of_room_or_quota_is_full() {
        for (errno, full) in [(28, true), (122, true), (27, true), (5, false), (30, false)] {
            let error = redb::Error::Io(std::io::Error::from_raw_os_error(errno));
            assert_eq!(matches!(database_error(error), StoreError::Full(_)), full, "errno {errno}");
        }
    }
}

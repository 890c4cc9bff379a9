//! The layout of the tables in the database file.

use redb::TableDefinition;

/// Key to entry, encoded by [`crate::record`].
pub(super) const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
/// The numbers below, by name.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// The revision of the last checkpoint.
pub(super) const CURRENT: &str = "revision";
/// History before this revision was compacted.
pub(super) const COMPACTED: &str = "compacted";
/// The version of the layout; an unknown one is refused.
pub(super) const FORMAT: &str = "format";
/// History is in a log in other files, not in the tables.
pub(super) const FORMAT_3: u64 = 3;
/// Each append of the log is marked, and begins a sector. Logs of format 3 are read as well.
pub(super) const FORMAT_4: u64 = 4;

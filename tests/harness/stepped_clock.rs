//! A wall clock of one process that a test steps, as NTP or an operator does. The monotonic clock goes on.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Where Debian's libfaketime is, for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The file that the library reads the offset from.
pub struct SteppedClock {
    folder: TempDir,
}

impl SteppedClock {
    pub fn new() -> Result<SteppedClock> {
        let clock = SteppedClock { folder: tempfile::tempdir()? };
        clock.step_to(0)?;
        Ok(clock)
    }

    /// Sets the clock to the true time and this many seconds. A process follows within a second.
    pub fn step_to(&self, seconds: i64) -> Result<()> {
        let next = self.folder.path().join("next");
        fs::write(&next, format!("{seconds:+}"))?;
        fs::rename(next, self.file()).context("step the clock")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// The environment of a process that has this clock.
    pub fn environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        Ok(vec![
            ("LD_PRELOAD", library()?.into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().into()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ])
    }
}

fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join(LIBRARY)));
    folders
        .into_iter()
        .find(|path| path.exists())
        .context("libfaketime is not installed; run `cargo xtask test`")
}

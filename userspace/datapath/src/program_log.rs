//! The log of the BPF programs.
//!
//! In: the level, which the loader makes a constant of the programs; their ring of lines. Out: lines of this process's log.

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::unix::AsyncFd;

use crate::Datapath;
use crate::error::DatapathError;

/// Reads the lines.
pub struct ProgramLog(AsyncFd<EbpfLogger<ToTracing>>);

impl ProgramLog {
    /// Runs until it is dropped; without lines it waits.
    pub async fn run(mut self) {
        while let Ok(mut ready) = self.0.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

/// All levels are events of one level here: who asked for them wants to see them.
#[derive(Debug)]
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::info!(target: "bpf", level = %record.level(), "{}", record.args());
    }

    fn flush(&self) {}
}

impl Datapath {
    /// The programs' log; `None`: no level is logged, or it was opened before.
    pub fn program_log(&mut self) -> Result<Option<ProgramLog>, DatapathError> {
        let logger = match EbpfLogger::init_with_logger(&mut self.ebpf, ToTracing) {
            Ok(logger) => logger,
            Err(aya_log::Error::MapNotFound) => return Ok(None),
            Err(error) => {
                return Err(DatapathError::file("open", "AYA_LOGS")(std::io::Error::other(error)));
            }
        };
        // SAFETY: the logger owns its descriptor and returns the same one for as long as it lives.
        let logger = unsafe { AsyncFd::register(logger) };
        let logger =
            logger.map_err(|error| DatapathError::file("watch", "AYA_LOGS")(error.into_parts().1))?;
        Ok(Some(ProgramLog(logger)))
    }
}

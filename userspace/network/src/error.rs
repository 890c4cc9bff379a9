//! What ends the network agent.

use std::path::PathBuf;

use crate::allocations::AllocationError;
use crate::dataplane::DataplaneError;

/// Why the network agent could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("open the datapath")]
    Open(#[source] skep_datapath::DatapathError),
    #[error("read back the maps")]
    Observe(#[source] DataplaneError),
    #[error(transparent)]
    Allocations(#[from] AllocationError),
    #[error("listen on {path}: {source}")]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("CNI server: {0}")]
    Serve(#[from] tonic::transport::Error),
}

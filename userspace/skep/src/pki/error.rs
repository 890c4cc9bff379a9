//! Errors of keys and certificates, with the operation, the file and the cause.

use std::path::PathBuf;

use skep_store::sealed::BadKeyring;

/// Why a key or certificate could not be read or created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("{operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is invalid: {reason}; restore it from a copy, or remove it to have a new one created")]
    Invalid { path: PathBuf, reason: String },
    #[error("{path}: {source}; restore it from a copy")]
    Keyring { path: PathBuf, source: BadKeyring },
    #[error("rotate {name}: {reason}")]
    Stage { name: String, reason: String },
    #[error("create {what}: {source}")]
    Create { what: &'static str, source: rcgen::Error },
}

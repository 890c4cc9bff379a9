//! Errors in CNI's form: a code, a message and details (CNI specification 1.1, "Error").

use serde::Serialize;

/// Codes of the specification; from 100 on they are the plugin's own.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const BAD_ENVIRONMENT: u32 = 4;
    pub const DECODE: u32 = 6;
    pub const BAD_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    pub const NOT_AVAILABLE: u32 = 50;
    pub const FAILED: u32 = 100;
}

/// A failed call, as printed on stdout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{msg}: {details}")]
pub struct CniError {
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// Without a version: [`crate::run`] sets it.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        CniError { cni_version: String::new(), code, msg: msg.into(), details: details.into() }
    }
}

/// The agent's refusal, as the CNI code by which a runtime decides whether to retry.
impl From<tonic::Status> for CniError {
    fn from(status: tonic::Status) -> Self {
        let number = match status.code() {
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
                code::TRY_AGAIN
            }
            tonic::Code::NotFound => code::UNKNOWN_CONTAINER,
            tonic::Code::InvalidArgument => code::BAD_CONFIG,
            _ => code::FAILED,
        };
        CniError::new(number, "the node agent refused the request", status.message())
    }
}

//! Work that may take a second without waiting for I/O.

use skep_api::custom::definition::is_definition;
use skep_api::{Errors, Kind};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` on this thread; the runtime moves other tasks to other threads meanwhile.
pub(crate) fn run_blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Validates an object. The rules of a custom resource may take a second, and so may a CustomResourceDefinition.
pub(crate) fn validate_maybe_slow(kind: &Kind, validate: impl FnOnce() -> Errors) -> Errors {
    let slow =
        is_definition(kind) || kind.custom.as_ref().is_some_and(|custom| custom.version.schema.has_rules());
    if slow { run_blocking(validate) } else { validate() }
}

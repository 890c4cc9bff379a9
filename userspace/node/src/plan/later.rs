//! Arithmetic of times that users write.

use jiff::{SignedDuration, Timestamp};

/// `at` and `wait` later, at most the last time that there is: users write waits of any length.
pub(super) fn later(at: Timestamp, wait: SignedDuration) -> Timestamp {
    skep_api::time::after(at, wait.max(SignedDuration::ZERO).unsigned_abs())
}

//! Panics as values: a fault in one object's code ends that object's work, not its part of the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::FutureExt;

/// The message of a panic. The panic hook has already written its location to stderr.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

/// Runs a decision. After a panic, what it borrowed mutably must be thrown away or known to be whole.
pub(crate) fn caught<T>(decide: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(decide)).map_err(message)
}

/// Runs a future to its end or to its panic.
pub(crate) async fn caught_async<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(message)
}

fn message(payload: Box<dyn Any + Send>) -> Panicked {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    Panicked(text.unwrap_or_else(|| "no message".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| -> u8 { panic!("no {}", 2) }), Err(Panicked("no 2".to_owned())));
        assert_eq!(caught_async(async { panic!("late") }).await, Err::<(), _>(Panicked("late".to_owned())));
    }
}

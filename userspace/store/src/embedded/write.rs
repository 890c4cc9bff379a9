//! Requests to the writer thread, each with the channel of its answer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::decide::Outcome;
use crate::{Entry, Expect, Result, Revision, StoreError};

pub(super) enum Write {
    Put {
        key: Arc<str>,
        value: Bytes,
        expect: Expect,
        answer: oneshot::Sender<Result<Entry>>,
    },
    Delete {
        key: Arc<str>,
        expect: Expect,
        answer: oneshot::Sender<Result<(Entry, Revision)>>,
    },
    Compact {
        before: Revision,
        answer: oneshot::Sender<Result<()>>,
    },
    /// A read of the database failed; `generation` is that of the reader's snapshot.
    Reopen {
        generation: u64,
        answer: oneshot::Sender<Result<()>>,
    },
    /// Wakes the writer: a checkpoint ended.
    Wake,
}

impl Write {
    /// Sends the outcome. The requester may be gone; the write counts anyway.
    pub(super) fn answer(self, outcome: Outcome) {
        fn send<T>(answer: oneshot::Sender<Result<T>>, result: Result<T>) {
            let _ = answer.send(result);
        }
        let mismatch = || StoreError::Unavailable("the writer mixed up its answers".to_owned());
        match self {
            Write::Put { answer, .. } => send(
                answer,
                match outcome {
                    Outcome::Put(entry) => Ok(entry),
                    Outcome::Refused(error) => Err(error),
                    _ => Err(mismatch()),
                },
            ),
            Write::Delete { answer, .. } => send(
                answer,
                match outcome {
                    Outcome::Deleted(entry, revision) => Ok((entry, revision)),
                    Outcome::Refused(error) => Err(error),
                    _ => Err(mismatch()),
                },
            ),
            Write::Compact { answer, .. } | Write::Reopen { answer, .. } => send(
                answer,
                match outcome {
                    Outcome::Done => Ok(()),
                    Outcome::Refused(error) => Err(error),
                    _ => Err(mismatch()),
                },
            ),
            Write::Wake => {}
        }
    }
}

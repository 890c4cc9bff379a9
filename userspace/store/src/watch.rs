//! A watcher's end of the stream of events.

use tokio::sync::mpsc;

use crate::{Event, Revision, StoreError};

/// What a watcher is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Events of one commit, in order.
    Events(Vec<Event>),
    /// Everything up to this revision was sent.
    Progress(Revision),
}

/// Events in order and without gaps, until an error ends it.
pub struct Watch {
    items: mpsc::Receiver<Result<WatchItem, StoreError>>,
    ended: bool,
}

/// Commits that may wait for a slow watcher before it is dropped.
pub(crate) const QUEUE: usize = 1024;

impl Watch {
    pub(crate) fn channel() -> (mpsc::Sender<Result<WatchItem, StoreError>>, Watch) {
        let (sender, items) = mpsc::channel(QUEUE);
        (sender, Watch { items, ended: false })
    }

    /// `None` after an error. A sender that vanished left the watcher behind: that is `Lagged`, never a silent end.
    pub async fn next(&mut self) -> Option<Result<WatchItem, StoreError>> {
        if self.ended {
            return None;
        }
        let item = self.items.recv().await.unwrap_or(Err(StoreError::Lagged));
        self.ended = item.is_err();
        Some(item)
    }
}

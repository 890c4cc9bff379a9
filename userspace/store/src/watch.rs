//! A watch: the store's end, which never waits for a slow watcher, and the watcher's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::sealed::Opener;
use crate::{Event, Result, Revision, StoreError};

/// What a watcher is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Events of one or more commits, in order; those of one revision are never torn apart.
    Events(Vec<Event>),
    /// Everything up to this revision was sent.
    Progress(Revision),
}

/// Items that may wait for a slow watcher before it is dropped.
const MAX_ITEMS: usize = 1024;
/// Events that may wait for it: bounds the memory that one watcher can hold.
const MAX_EVENTS: usize = 16 * 1024;

/// Events in order and without gaps, until an error ends it.
pub struct Watch {
    items: mpsc::Receiver<Result<WatchItem>>,
    waiting: Arc<AtomicUsize>,
    ended: bool,
    /// For events whose values are sealed.
    opener: Option<Arc<Opener>>,
}

impl Watch {
    pub(crate) fn channel() -> (WatchSender, Watch) {
        let (sender, items) = mpsc::channel(MAX_ITEMS);
        let waiting = Arc::new(AtomicUsize::new(0));
        (
            WatchSender { items: sender, waiting: waiting.clone() },
            Watch { items, waiting, ended: false, opener: None },
        )
    }

    /// `None` after an error. A sender that vanished left the watcher behind: that is `Lagged`, never a silent end.
    pub async fn next(&mut self) -> Option<Result<WatchItem>> {
        if self.ended {
            return None;
        }
        let item = self.items.recv().await.unwrap_or(Err(StoreError::Lagged));
        if let Ok(WatchItem::Events(events)) = &item {
            self.waiting.fetch_sub(events.len(), Ordering::Relaxed);
        }
        let item = item.and_then(|item| self.open(item));
        self.ended = item.is_err();
        Some(item)
    }

    pub(crate) fn opened_by(self, opener: Arc<Opener>) -> Watch {
        Watch { opener: Some(opener), ..self }
    }

    fn open(&self, item: WatchItem) -> Result<WatchItem> {
        match (&self.opener, item) {
            (Some(opener), WatchItem::Events(events)) => {
                let opened: Result<Vec<Event>> =
                    events.into_iter().map(|event| opener.event(event)).collect();
                Ok(WatchItem::Events(opened?))
            }
            (_, item) => Ok(item),
        }
    }
}

pub(crate) struct WatchSender {
    items: mpsc::Sender<Result<WatchItem>>,
    waiting: Arc<AtomicUsize>,
}

impl WatchSender {
    /// Sends without waiting; false if the watcher is gone or too far behind, and then it must be dropped.
    pub(crate) fn offer(&self, item: Result<WatchItem>) -> bool {
        let events = events(&item);
        let waiting = self.waiting.fetch_add(events, Ordering::Relaxed);
        // One item always fits an empty queue, whatever its size.
        (waiting == 0 || waiting + events <= MAX_EVENTS) && self.items.try_send(item).is_ok()
    }

    /// Waits for the watcher; for a task of the watcher's own. False if it is gone.
    pub(crate) async fn send(&self, item: Result<WatchItem>) -> bool {
        self.waiting.fetch_add(events(&item), Ordering::Relaxed);
        self.items.send(item).await.is_ok()
    }

    /// Whether the watcher took everything that it was sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.items.capacity() == MAX_ITEMS
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.items.is_closed()
    }

    pub(crate) async fn closed(&self) {
        self.items.closed().await;
    }
}

fn events(item: &Result<WatchItem>) -> usize {
    if let Ok(WatchItem::Events(events)) = item { events.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Entry;

    fn commit(revision: Revision, events: usize) -> Result<WatchItem> {
        let entry = |_| Entry { key: "k".into(), value: Bytes::new(), created: 1, modified: revision };
        Ok(WatchItem::Events((0..events).map(|i| Event::Put { entry: entry(i), previous: None }).collect()))
    }

    #[tokio::test]
    async fn a_watcher_that_reads_is_never_dropped() {
        let (sender, mut watch) = Watch::channel();
        assert!(sender.offer(commit(1, 2 * MAX_EVENTS)));
        watch.next().await;
        for revision in 2..3 * MAX_ITEMS as Revision {
            assert!(sender.offer(commit(revision, 16)));
            assert!(matches!(watch.next().await, Some(Ok(WatchItem::Events(_)))));
        }
        assert!(sender.is_idle());
    }

    #[tokio::test]
    async fn a_watcher_behind_by_too_many_events_gets_what_was_queued_and_then_an_error() {
        let (sender, mut watch) = Watch::channel();
        let mut sent = 0;
        while sender.offer(commit(sent, MAX_EVENTS / 4)) {
            sent += 1;
        }
        assert_eq!(sent, 4);
        drop(sender);
        for _ in 0..sent {
            assert!(matches!(watch.next().await, Some(Ok(WatchItem::Events(_)))));
        }
        assert!(matches!(watch.next().await, Some(Err(StoreError::Lagged))));
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watcher_behind_by_too_many_commits_is_dropped() {
        let (sender, _watch) = Watch::channel();
        let sent = (0..).take_while(|i| sender.offer(commit(*i, 1))).count();
        assert_eq!(sent, MAX_ITEMS);
    }
}

//! A watch: the store's end, which never waits for a slow watcher, and the watcher's end.
//!
//! In: events of commits. Out: the same events to one watcher, in order and without gaps, or an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::{Event, Result, Revision, StoreError};

/// One message to a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Events of one or more commits, in order; events of one revision are in one item.
    Events(Vec<Event>),
    /// Everything up to this revision was sent.
    Progress(Revision),
}

/// Bounds the items in a watcher's queue; a watcher that is further behind is dropped.
const MAX_QUEUED_ITEMS: usize = 1024;
/// Bounds the events in it, and so the memory of one watcher.
const MAX_QUEUED_EVENTS: usize = 16 * 1024;

type MapEvent = Box<dyn Fn(Event) -> Event + Send + Sync>;

/// Events in order and without gaps. An error is the last item; [`crate::Store`] documents how to continue.
pub struct Watch {
    items: mpsc::Receiver<Result<WatchItem>>,
    /// Events in the queue.
    queued: Arc<AtomicUsize>,
    ended: bool,
    map: Option<MapEvent>,
}

impl Watch {
    pub(crate) fn channel() -> (WatchSender, Watch) {
        let (sender, items) = mpsc::channel(MAX_QUEUED_ITEMS);
        let queued = Arc::new(AtomicUsize::new(0));
        (
            WatchSender { items: sender, queued: queued.clone() },
            Watch { items, queued, ended: false, map: None },
        )
    }

    /// Waits for the next item; `None` after an error. If the sender is gone without an error, the error is `Lagged`.
    pub async fn next(&mut self) -> Option<Result<WatchItem>> {
        if self.ended {
            return None;
        }
        let item = self.items.recv().await.unwrap_or(Err(StoreError::Lagged));
        if let Ok(WatchItem::Events(events)) = &item {
            self.queued.fetch_sub(events.len(), Ordering::Relaxed);
        }
        let item = item.map(|item| self.mapped(item));
        self.ended = item.is_err();
        Some(item)
    }

    /// Passes every event through `map`, in the watcher's task. Replaces an earlier `map`.
    pub(crate) fn map_events(self, map: impl Fn(Event) -> Event + Send + Sync + 'static) -> Watch {
        Watch { map: Some(Box::new(map)), ..self }
    }

    fn mapped(&self, item: WatchItem) -> WatchItem {
        match (&self.map, item) {
            (Some(map), WatchItem::Events(events)) => {
                WatchItem::Events(events.into_iter().map(map).collect())
            }
            (_, item) => item,
        }
    }
}

/// The store's end; dropping it ends the watch with `Lagged`.
pub(crate) struct WatchSender {
    items: mpsc::Sender<Result<WatchItem>>,
    queued: Arc<AtomicUsize>,
}

impl WatchSender {
    /// Sends without waiting; false if the watcher is gone or too far behind. The sender must then be dropped.
    pub(crate) fn offer(&self, item: Result<WatchItem>) -> bool {
        let events = event_count(&item);
        let queued = self.queued.fetch_add(events, Ordering::Relaxed);
        // An empty queue takes one item of any size.
        (queued == 0 || queued + events <= MAX_QUEUED_EVENTS) && self.items.try_send(item).is_ok()
    }

    /// Waits for room; for a task that serves this watcher only. False if the watcher is gone.
    pub(crate) async fn send(&self, item: Result<WatchItem>) -> bool {
        self.queued.fetch_add(event_count(&item), Ordering::Relaxed);
        self.items.send(item).await.is_ok()
    }

    /// Whether the watcher's queue is empty.
    pub(crate) fn is_idle(&self) -> bool {
        self.items.capacity() == MAX_QUEUED_ITEMS
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.items.is_closed()
    }

    pub(crate) async fn closed(&self) {
        self.items.closed().await;
    }
}

fn event_count(item: &Result<WatchItem>) -> usize {
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
        assert!(sender.offer(commit(1, 2 * MAX_QUEUED_EVENTS)));
        watch.next().await;
        for revision in 2..3 * MAX_QUEUED_ITEMS as Revision {
            assert!(sender.offer(commit(revision, 16)));
            assert!(matches!(watch.next().await, Some(Ok(WatchItem::Events(_)))));
        }
        assert!(sender.is_idle());
    }

    #[tokio::test]
    async fn a_watcher_behind_by_too_many_events_gets_what_was_queued_and_then_an_error() {
        let (sender, mut watch) = Watch::channel();
        let mut sent = 0;
        while sender.offer(commit(sent, MAX_QUEUED_EVENTS / 4)) {
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
        assert_eq!(sent, MAX_QUEUED_ITEMS);
    }
}

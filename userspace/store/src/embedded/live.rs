//! What was committed last, and who waits for more. The writer publishes; readers and watchers take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::guarded;
use super::view::View;
use crate::state::Recent;
use crate::watch::WatchSender;
use crate::{Event, Result, Revision, StoreError, WatchItem};

/// Events kept in memory for watchers; older ones are read from disk.
const RECENT_EVENTS: usize = 10_000;
const RECENT_BYTES: usize = 4 << 20;

pub(super) struct Shared {
    live: Mutex<Live>,
}

struct Live {
    /// `None` once the store is closed.
    view: Option<Arc<View>>,
    recent: Recent,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    sender: WatchSender,
}

impl Shared {
    pub(super) fn new(view: View) -> Shared {
        let recent = Recent::new(view.revisions.current, RECENT_EVENTS, RECENT_BYTES);
        Shared { live: Mutex::new(Live { view: Some(Arc::new(view)), recent, watchers: Vec::new() }) }
    }

    /// Nothing that panics runs under the lock, so a poisoned one is as good.
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> Result<Arc<View>> {
        self.live().view.clone().ok_or(StoreError::Closed)
    }

    /// Makes commits visible to readers and watchers in one step.
    pub(super) fn publish(&self, view: View, events: Vec<Event>) {
        let mut live = self.live();
        live.tell(&events);
        live.view = Some(Arc::new(view));
    }

    /// Enrols a watcher, with what it missed, if memory still holds that; else gives the sender back.
    /// Watchers that were told nothing yet are told `otherwise`.
    pub(super) fn subscribe(
        &self,
        prefix: &str,
        after: Revision,
        sender: WatchSender,
        otherwise: WatchItem,
    ) -> Option<WatchSender> {
        let mut live = self.live();
        if live.view.is_none() {
            sender.offer(Err(StoreError::Closed));
            return None;
        }
        // Under the lock, so that no commit falls between.
        let Some(missed) = live.recent.after(after, prefix) else { return Some(sender) };
        if sender.offer(Ok(if missed.is_empty() { otherwise } else { WatchItem::Events(missed) })) {
            live.watchers.push(Watcher { prefix: prefix.to_owned(), sender });
        }
        None
    }

    pub(super) fn close(&self) {
        let mut live = self.live();
        live.view = None;
        for watcher in std::mem::take(&mut live.watchers) {
            watcher.sender.offer(Err(StoreError::Closed));
        }
    }
}

impl Live {
    fn tell(&mut self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        self.watchers.retain(|watcher| {
            let matching: Vec<Event> =
                events.iter().filter(|event| event.key().starts_with(&watcher.prefix)).cloned().collect();
            if !matching.is_empty() {
                // A queue that is too long drops the watcher; it is never waited for.
                watcher.sender.offer(Ok(WatchItem::Events(matching)))
            } else if watcher.sender.is_idle() {
                watcher.sender.offer(Ok(WatchItem::Progress(last.revision())))
            } else {
                !watcher.sender.is_closed()
            }
        });
        events.iter().for_each(|event| self.recent.push(event.clone()));
    }
}

/// Reads a late watcher's events from disk, as fast as it takes them, until memory holds the rest.
pub(super) async fn feed(shared: Arc<Shared>, prefix: String, mut after: Revision, mut sender: WatchSender) {
    loop {
        match next_part(&shared, &prefix, after).await {
            Ok((events, until)) => {
                after = until;
                if !events.is_empty() && !sender.send(Ok(WatchItem::Events(events))).await {
                    return;
                }
            }
            Err(error) => {
                sender.send(Err(error)).await;
                return;
            }
        }
        match shared.subscribe(&prefix, after, sender, WatchItem::Progress(after)) {
            Some(again) => sender = again,
            None => return,
        }
    }
}

async fn next_part(shared: &Arc<Shared>, prefix: &str, after: Revision) -> Result<(Vec<Event>, Revision)> {
    let view = shared.view()?;
    view.revisions.resolve(Some(after))?;
    let prefix = prefix.to_owned();
    let part = tokio::task::spawn_blocking(move || guarded(|| view.events(after, &prefix)))
        .await
        .map_err(|_| StoreError::Closed)??;
    Ok((part.events, part.until))
}

//! The last commit, recent events and the watchers.
//!
//! In: commits from the writer. Out: the view for readers, events for watchers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::catch_panics;
use super::view::View;
use crate::state::Recent;
use crate::watch::WatchSender;
use crate::{Event, Result, Revision, StoreError, WatchItem};

/// Bound the events kept in memory for watchers; older ones are read from disk.
const MAX_RECENT_EVENTS: usize = 10_000;
const MAX_RECENT_BYTES: usize = 4 << 20;

/// Shared by the writer, readers and watchers.
pub(super) struct Hub {
    state: Mutex<HubState>,
}

struct HubState {
    /// `None` once the store is closed.
    view: Option<Arc<View>>,
    recent: Recent,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    sender: WatchSender,
}

impl Hub {
    pub(super) fn new(view: View) -> Hub {
        let recent = Recent::new(view.revisions.current, MAX_RECENT_EVENTS, MAX_RECENT_BYTES);
        Hub { state: Mutex::new(HubState { view: Some(Arc::new(view)), recent, watchers: Vec::new() }) }
    }

    /// Nothing under the lock panics, so a poisoned one is still consistent.
    fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Err(Closed)` once the store is closed.
    pub(super) fn view(&self) -> Result<Arc<View>> {
        self.state().view.clone().ok_or(StoreError::Closed)
    }

    /// Makes a commit visible to readers and watchers in one step.
    pub(super) fn publish(&self, view: View, events: Vec<Event>) {
        let mut state = self.state();
        state.notify(&events);
        state.view = Some(Arc::new(view));
    }

    /// Registers a watcher after sending what it missed since `after`, or `if_up_to_date` if it missed nothing. Gives the
    /// sender back if memory no longer holds what it missed.
    pub(super) fn subscribe(
        &self,
        prefix: &str,
        after: Revision,
        sender: WatchSender,
        if_up_to_date: WatchItem,
    ) -> Option<WatchSender> {
        let mut state = self.state();
        if state.view.is_none() {
            sender.offer(Err(StoreError::Closed));
            return None;
        }
        // Under the lock, so that no commit comes in between.
        let Some(missed) = state.recent.after(after, prefix) else { return Some(sender) };
        if sender.offer(Ok(if missed.is_empty() { if_up_to_date } else { WatchItem::Events(missed) })) {
            state.watchers.push(Watcher { prefix: prefix.to_owned(), sender });
        }
        None
    }

    /// Ends all reads and watches with `Closed`.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.view = None;
        for watcher in std::mem::take(&mut state.watchers) {
            watcher.sender.offer(Err(StoreError::Closed));
        }
    }
}

impl HubState {
    fn notify(&mut self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        self.watchers.retain(|watcher| {
            let matching: Vec<Event> =
                events.iter().filter(|event| event.key().starts_with(&watcher.prefix)).cloned().collect();
            if !matching.is_empty() {
                // A full queue drops the watcher; the writer never waits for it.
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

/// Sends a late watcher its events from disk, at its own speed, until memory holds the rest.
pub(super) async fn feed_from_disk(
    hub: Arc<Hub>,
    prefix: String,
    mut after: Revision,
    mut sender: WatchSender,
) {
    loop {
        match next_chunk(&hub, &prefix, after).await {
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
        match hub.subscribe(&prefix, after, sender, WatchItem::Progress(after)) {
            Some(returned) => sender = returned,
            None => return,
        }
    }
}

async fn next_chunk(hub: &Arc<Hub>, prefix: &str, after: Revision) -> Result<(Vec<Event>, Revision)> {
    let view = hub.view()?;
    view.revisions.resolve(Some(after))?;
    let prefix = prefix.to_owned();
    let chunk = tokio::task::spawn_blocking(move || catch_panics(|| view.events(after, &prefix)))
        .await
        .map_err(|_| StoreError::Closed)??;
    Ok((chunk.events, chunk.until))
}

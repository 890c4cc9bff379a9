//! The static pods of the node and what the API has of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use super::{PodKey, key};
use crate::names;

/// The static pods and their mirrors. The agent adds both; [`super::keep`] acts.
#[derive(Default)]
pub(crate) struct Mirrors {
    known: Mutex<Known>,
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct Known {
    pub(super) statics: HashMap<PodKey, Arc<Pod>>,
    pub(super) mirrors: HashMap<PodKey, Arc<Pod>>,
    /// The uids of a list that is not complete yet.
    listed: HashSet<String>,
    /// A list was complete.
    pub(super) synced: bool,
}

impl Mirrors {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known());
        self.changed.notify_one();
    }

    /// A worker of the static pod begins.
    pub(crate) fn begin(&self, pod: &Arc<Pod>) {
        self.change(|known| drop(known.statics.insert(key(pod), pod.clone())));
    }

    /// Nothing of the static pod is left.
    pub(crate) fn end(&self, uid: &str) {
        self.change(|known| known.statics.retain(|_, pod| names::of(pod).2 != uid));
    }

    /// The API has this mirror.
    pub(crate) fn show(&self, pod: &Arc<Pod>) {
        self.change(|known| {
            known.listed.insert(names::of(pod).2);
            known.mirrors.insert(key(pod), pod.clone());
        });
    }

    /// The API has no pod of this uid.
    pub(crate) fn gone(&self, uid: &str) {
        self.change(|known| known.mirrors.retain(|_, pod| names::of(pod).2 != uid));
    }

    pub(crate) fn list_begins(&self) {
        self.known().listed.clear();
    }

    pub(crate) fn list_complete(&self) {
        self.change(|known| {
            let listed = std::mem::take(&mut known.listed);
            known.mirrors.retain(|_, pod| listed.contains(&names::of(pod).2));
            known.synced = true;
        });
    }
}

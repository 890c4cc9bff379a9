//! The resources that the collector knows: a number for each, their watches, and which of those have not listed yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::core::discovery::ApiResource;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::graph::GroupKind;
use super::watch::{Message, follow};
use crate::cache::Kind;
use crate::discovery::{Discovered, Resource};
use crate::hub::is_partial;

/// A resource whose first list takes longer no longer holds up the others: deletions are checked with the server anyway.
const MAX_SYNC_WAIT: Duration = Duration::from_secs(30);

/// Where the watches run and report.
pub(super) struct Watching<'a> {
    pub(super) client: &'a Client,
    pub(super) sender: &'a mpsc::Sender<Message>,
    pub(super) tasks: &'a mut JoinSet<()>,
}

#[derive(Default)]
pub(super) struct Resources {
    /// By number. A group and kind keep their number for ever; the version may change.
    apis: Vec<Arc<ApiResource>>,
    kinds: Vec<Arc<GroupKind>>,
    numbers: HashMap<Arc<GroupKind>, u32>,
    watches: HashMap<u32, AbortHandle>,
    /// Watched resources whose first list is not complete, and since when.
    unsynced: HashMap<u32, Instant>,
}

/// Kinds of which the hub holds every object.
pub(super) fn is_in_hub(group: &str, kind: &str) -> bool {
    Kind::ALL.iter().any(|k| !is_partial(*k) && k.group() == group && k.name() == kind)
}

impl Resources {
    pub(super) fn number(&mut self, api: &ApiResource) -> u32 {
        let kind = GroupKind { group: api.group.clone(), kind: api.kind.clone() };
        if let Some(number) = self.numbers.get(&kind) {
            return *number;
        }
        let number = u32::try_from(self.apis.len()).unwrap_or(u32::MAX);
        let kind = Arc::new(kind);
        self.apis.push(Arc::new(api.clone()));
        self.kinds.push(kind.clone());
        self.numbers.insert(kind, number);
        number
    }

    pub(super) fn api(&self, number: u32) -> Option<&Arc<ApiResource>> {
        self.apis.get(number as usize)
    }

    pub(super) fn kind(&self, number: u32) -> Option<&Arc<GroupKind>> {
        self.kinds.get(number as usize)
    }

    /// Whether a change of this resource's objects changes what the server serves.
    pub(super) fn defines_kinds(&self, number: u32) -> bool {
        self.kind(number).is_some_and(|k| {
            matches!(
                (k.group.as_str(), k.kind.as_str()),
                ("apiextensions.k8s.io", "CustomResourceDefinition")
                    | ("apiregistration.k8s.io", "APIService")
            )
        })
    }

    pub(super) fn set_synced(&mut self, number: u32) {
        self.unsynced.remove(&number);
    }

    pub(super) fn all_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Whether every resource has listed its objects, or had the time to.
    pub(super) fn may_decide(&self) -> bool {
        self.unsynced.values().all(|since| since.elapsed() >= MAX_SYNC_WAIT)
    }

    /// Starts the watches of new resources and ends those of resources that are no longer served. The objects of the
    /// latter stay in the graph: they exist, and may be served again.
    pub(super) fn follow(&mut self, discovered: &Discovered, watching: &mut Watching<'_>) {
        let mut served = HashSet::new();
        for resource in discovered.preferred() {
            // Events are many, short-lived and own nothing.
            if !resource.can(&["list", "watch", "delete"])
                || resource.api.kind == "Event"
                || is_in_hub(&resource.api.group, &resource.api.kind)
            {
                continue;
            }
            let number = self.number(&resource.api);
            served.insert(number);
            self.follow_one(number, resource, watching);
        }
        let ended: Vec<u32> = self.watches.keys().filter(|n| !served.contains(*n)).copied().collect();
        for number in ended {
            let failed = self.kind(number).is_some_and(|kind| discovered.has_failed(&kind.group));
            // The watch of a server that is down reconnects by itself.
            if !failed || self.unsynced.contains_key(&number) {
                self.end(number);
            }
        }
    }

    fn follow_one(&mut self, number: u32, resource: &Resource, watching: &mut Watching<'_>) {
        if self.api(number) != Some(&resource.api) {
            if let Some(api) = self.apis.get_mut(number as usize) {
                *api = resource.api.clone();
            }
            self.end(number);
        }
        if !self.watches.contains_key(&number) {
            self.unsynced.insert(number, Instant::now());
            let job = follow(watching.client.clone(), number, resource.api.clone(), watching.sender.clone());
            self.watches.insert(number, watching.tasks.spawn(job));
        }
    }

    fn end(&mut self, number: u32) {
        if let Some(watch) = self.watches.remove(&number) {
            watch.abort();
        }
        self.unsynced.remove(&number);
    }
}

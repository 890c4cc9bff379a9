//! Pods with a chosen node whose volumes are being bound. PURE: they hold their room meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use skep_api::time;

use super::volumes::VolumePlan;
use crate::cache::{Key, Object};
use crate::controllers::persistent_volume::matching::claim_ref;
use crate::controllers::volume_claims::claim_names;
use crate::meta;

/// As upstream: afterwards the pod is tried again.
const MAX_BINDING_TIME: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct WaitingPod {
    pub(super) pod: Arc<Pod>,
    pub(super) node: Arc<str>,
    /// Empty once it was written: from then on claims and volumes say what is taken.
    pub(super) plan: VolumePlan,
    claims: Vec<Key>,
    written: bool,
    until: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct WaitingPods {
    pods: BTreeMap<Key, WaitingPod>,
    timers: BTreeSet<(Timestamp, Key)>,
    /// Pods to look at again.
    due: BTreeSet<Key>,
}

impl WaitingPods {
    pub(super) fn insert(&mut self, pod: &Arc<Pod>, node: &Arc<str>, plan: VolumePlan, now: Timestamp) {
        let (key, until) = (Key::of(&pod.metadata), time::after(now, MAX_BINDING_TIME));
        let claims = claim_names(pod).map(|name| Key::new(&key.namespace, &name)).collect();
        let written = plan.claims.is_empty() && plan.volumes.is_empty();
        if written {
            self.due.insert(key.clone());
        }
        self.timers.insert((until, key.clone()));
        self.pods
            .insert(key, WaitingPod { pod: pod.clone(), node: node.clone(), plan, claims, written, until });
    }

    /// The plan of the pod with this uid was written; returns it.
    pub(super) fn written(&mut self, key: &Key, uid: &str) -> VolumePlan {
        let waiting = self.pods.get_mut(key).filter(|waiting| meta::uid(&waiting.pod.metadata) == uid);
        let Some(waiting) = waiting else { return VolumePlan::default() };
        waiting.written = true;
        self.due.insert(key.clone());
        std::mem::take(&mut waiting.plan)
    }

    /// A claim or a volume changed.
    pub(super) fn changed(&mut self, object: &Object) {
        if self.pods.is_empty() {
            return;
        }
        let claim = match object {
            Object::PersistentVolumeClaim(claim) => Key::of(&claim.metadata),
            Object::PersistentVolume(volume) => match claim_ref(volume) {
                Some(of) => Key::new(
                    of.namespace.as_deref().unwrap_or_default(),
                    of.name.as_deref().unwrap_or_default(),
                ),
                None => return,
            },
            _ => return,
        };
        let concerned = self.pods.iter().filter(|(_, waiting)| waiting.claims.contains(&claim));
        self.due.extend(concerned.map(|(key, _)| key.clone()));
    }

    /// A pod to look at; true: its time is over.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<(Key, bool)> {
        if let Some((until, _)) = self.timers.first()
            && *until <= now
            && let Some((_, key)) = self.timers.pop_first()
        {
            return Some((key, true));
        }
        while let Some(key) = self.due.pop_first() {
            if self.pods.get(&key).is_some_and(|waiting| waiting.written) {
                return Some((key, false));
            }
        }
        None
    }

    pub(super) fn get(&self, key: &Key) -> Option<&WaitingPod> {
        self.pods.get(key)
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<WaitingPod> {
        let waiting = self.pods.remove(key)?;
        self.timers.remove(&(waiting.until, key.clone()));
        self.due.remove(key);
        Some(waiting)
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }
}

//! PURE. Which static pods there should be and which run. A changed pod has another uid and the same name: it begins when
//! nothing of the old one is left.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{PodKey, key};
use crate::names;

#[derive(Debug, Default)]
pub(crate) struct Statics {
    wanted: BTreeMap<PodKey, Arc<Pod>>,
    /// The names of those that have a worker, by uid.
    running: HashMap<String, PodKey>,
}

impl Statics {
    /// Replaces the wanted ones. Returns the uids of running ones that must end.
    pub(crate) fn set(&mut self, pods: Vec<Arc<Pod>>) -> Vec<String> {
        self.wanted = pods.into_iter().map(|pod| (key(&pod), pod)).collect();
        let unwanted = |(uid, key): &(&String, &PodKey)| {
            self.wanted.get(*key).is_none_or(|pod| names::of(pod).2 != **uid)
        };
        self.running.iter().filter(unwanted).map(|(uid, _)| uid.clone()).collect()
    }

    /// The wanted ones whose name no running one has.
    pub(crate) fn startable(&self) -> Vec<Arc<Pod>> {
        let is_free = |name: &PodKey| !self.running.values().any(|taken| taken == name);
        self.wanted.iter().filter(|(name, _)| is_free(name)).map(|(_, pod)| pod.clone()).collect()
    }

    /// Whether the pod has the name of a wanted one and is another.
    pub(crate) fn is_older(&self, pod: &Pod) -> bool {
        self.wanted.get(&key(pod)).is_some_and(|wanted| wanted.metadata.uid != pod.metadata.uid)
    }

    pub(crate) fn begin(&mut self, pod: &Pod) {
        self.running.insert(names::of(pod).2, key(pod));
    }

    /// Whether the pod was a static one.
    pub(crate) fn end(&mut self, uid: &str) -> bool {
        self.running.remove(uid).is_some()
    }

    pub(crate) fn has(&self, uid: &str) -> bool {
        self.running.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), uid: Some(uid.to_owned()), ..ObjectMeta::default() };
        Arc::new(Pod { metadata, ..Pod::default() })
    }

    #[test]
    fn a_changed_pod_begins_when_the_old_one_has_ended() {
        let mut statics = Statics::default();
        assert!(statics.set(vec![pod("web", "1"), pod("db", "2")]).is_empty());
        assert!(statics.is_older(&pod("web", "0")) && !statics.is_older(&pod("other", "0")));
        assert_eq!(statics.startable().len(), 2);
        for pod in statics.startable() {
            statics.begin(&pod);
        }
        assert_eq!(statics.set(vec![pod("web", "3"), pod("db", "2")]), ["1"]);
        assert!(statics.startable().is_empty() && statics.has("1"));
        assert!(statics.end("1") && !statics.end("1"));
        assert_eq!(statics.startable(), [pod("web", "3")]);
    }
}

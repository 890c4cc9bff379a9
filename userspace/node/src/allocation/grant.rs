//! PURE. The resources that the node has given to a pod's containers. They differ from those of the spec while a resize
//! waits (KEP-1287).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

/// By container name; only containers that can be resized.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant(BTreeMap<String, ResourceRequirements>);

/// Main containers and sidecars.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    pod.spec.iter().flat_map(|s| &s.containers).chain(sidecars)
}

impl Grant {
    /// What the pod's spec asks for.
    pub fn wanted(pod: &Pod) -> Grant {
        let resources = |c: &Container| (c.name.clone(), c.resources.clone().unwrap_or_default());
        Grant(resizable(pod).map(resources).collect())
    }

    /// The pod with the granted resources instead of those of its spec.
    pub fn applied(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let Some(spec) = &mut pod.spec else { return pod };
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(granted) = self.0.get(&container.name)
                && container.resources.clone().unwrap_or_default() != *granted
            {
                container.resources = Some(granted.clone());
            }
        }
        pod
    }
}

//! The type of our own kind LoadBalancerPool, in the form of k8s-openapi's types.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, ListableResource, Metadata, Resource};
use serde::{Deserialize, Serialize};

/// Addresses that Services of type LoadBalancer may get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancerPool {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: LoadBalancerPoolSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPoolSpec {
    #[serde(default)]
    pub cidrs: Vec<String>,
    /// Services that may get these addresses; every Service if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
}

impl Resource for LoadBalancerPool {
    const API_VERSION: &'static str = "skep.io/v1alpha1";
    const GROUP: &'static str = "skep.io";
    const KIND: &'static str = "LoadBalancerPool";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "loadbalancerpools";
    type Scope = ClusterResourceScope;
}

impl ListableResource for LoadBalancerPool {
    const LIST_KIND: &'static str = "LoadBalancerPoolList";
}

impl Metadata for LoadBalancerPool {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

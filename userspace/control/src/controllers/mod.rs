//! The controllers, each in a pure file: from a change to the keys that it concerns, and from a key to actions.

pub mod cluster_role;
pub mod cron_job;
pub mod csr;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpoints_object;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod ephemeral_volume;
pub(crate) mod horizontal_pod_autoscaler;
pub mod job;
pub mod load_balancer;
pub(crate) mod node_conditions;
pub mod node_ipam;
pub mod node_lifecycle;
mod node_zones;
pub mod persistent_volume;
pub mod pod_gc;
pub mod pods;
pub mod replicaset;
pub mod revisions;
mod routing;
pub mod service_account;
pub mod service_cidr;
pub mod stale_disruption;
pub mod statefulset;
mod statefulset_claims;
pub mod taint_eviction;
pub mod topology;
pub(crate) mod volume_claims;
pub mod volume_protection;

use crate::action::Controller;
use crate::cache::Kind;
use crate::config::Config;

/// Every controller that the runner drives.
pub fn all(config: &Config) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(cluster_role::ClusterRoles),
        Box::new(cron_job::CronJobs),
        Box::new(csr::Csrs { signer: config.signer.clone(), names: config.node_names.clone() }),
        Box::new(daemonset::DaemonSets),
        Box::new(deployment::Deployments),
        Box::new(disruption::Disruption),
        Box::new(endpointslice::EndpointSlices),
        Box::new(endpointslice_mirroring::EndpointSliceMirroring),
        Box::new(endpoints_object::EndpointsObjects),
        Box::new(ephemeral_volume::EphemeralVolumes),
        Box::new(job::Jobs),
        Box::new(load_balancer::LoadBalancers),
        Box::new(node_ipam::NodeIpam {
            networks: config.cluster_cidrs.clone(),
            prefix_v4: config.node_prefix_v4,
            prefix_v6: config.node_prefix_v6,
        }),
        Box::new(node_lifecycle::NodeLifecycle {
            grace: config.node_grace,
            startup_grace: config.node_startup_grace,
        }),
        Box::new(persistent_volume::PersistentVolumes),
        Box::new(pod_gc::PodGc { threshold: config.terminated_pod_threshold }),
        Box::new(service_account::ServiceAccounts { root_ca_pem: config.root_ca_pem.clone() }),
        Box::new(service_cidr::ServiceCidrs),
        Box::new(stale_disruption::StaleDisruptions),
        Box::new(statefulset::StatefulSets),
        Box::new(taint_eviction::TaintEviction),
        Box::new(replicaset::ReplicaSets { kind: Kind::ReplicaSet }),
        Box::new(replicaset::ReplicaSets { kind: Kind::ReplicationController }),
        Box::new(volume_protection::VolumeProtection { kind: Kind::PersistentVolumeClaim }),
        Box::new(volume_protection::VolumeProtection { kind: Kind::PersistentVolume }),
        Box::new(volume_protection::VolumeProtection { kind: Kind::VolumeAttributesClass }),
    ]
}

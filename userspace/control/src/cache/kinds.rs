//! The one list of kinds that controllers and scheduler read or write. Everything that differs by kind comes from it:
//! [`Kind`], [`Object`], the tables of the view, the typed requests, the informers and the simulated server of the tests.
//!
//! To add a kind, add one row to [`for_each_kind`].

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};

/// Calls a macro with its arguments and one row a kind: `{Variant, table field, type, [index], [transform]}`.
/// `index` and `transform` name functions of `cache::stored`; they are empty for most kinds.
macro_rules! for_each_kind {
    ($callback:ident! $($arguments:tt)*) => {
        $callback! { $($arguments)*
            {Namespace, namespaces, k8s_openapi::api::core::v1::Namespace, [], []}
            {Node, nodes, k8s_openapi::api::core::v1::Node, [], []}
            {Lease, leases, k8s_openapi::api::coordination::v1::Lease, [], []}
            {Pod, pods, k8s_openapi::api::core::v1::Pod, [node_of_pod], [trim_pod]}
            {Service, services, k8s_openapi::api::core::v1::Service, [], []}
            {Endpoints, endpoints, k8s_openapi::api::core::v1::Endpoints, [], []}
            {EndpointSlice, slices, k8s_openapi::api::discovery::v1::EndpointSlice, [service_of_slice], []}
            {ConfigMap, config_maps, k8s_openapi::api::core::v1::ConfigMap, [], []}
            {Secret, secrets, k8s_openapi::api::core::v1::Secret, [], []}
            {ServiceAccount, service_accounts, k8s_openapi::api::core::v1::ServiceAccount, [], []}
            {ReplicationController, replication_controllers, k8s_openapi::api::core::v1::ReplicationController, [], []}
            {ReplicaSet, replica_sets, k8s_openapi::api::apps::v1::ReplicaSet, [], []}
            {Deployment, deployments, k8s_openapi::api::apps::v1::Deployment, [], []}
            {DaemonSet, daemon_sets, k8s_openapi::api::apps::v1::DaemonSet, [], []}
            {StatefulSet, stateful_sets, k8s_openapi::api::apps::v1::StatefulSet, [], []}
            {ControllerRevision, revisions, k8s_openapi::api::apps::v1::ControllerRevision, [], []}
            {PersistentVolumeClaim, claims, k8s_openapi::api::core::v1::PersistentVolumeClaim, [volume_of_claim], []}
            {PersistentVolume, volumes, k8s_openapi::api::core::v1::PersistentVolume, [claim_of_volume], []}
            {StorageClass, storage_classes, k8s_openapi::api::storage::v1::StorageClass, [], []}
            {VolumeAttributesClass, volume_attributes_classes, k8s_openapi::api::storage::v1::VolumeAttributesClass, [], []}
            {Job, jobs, k8s_openapi::api::batch::v1::Job, [], []}
            {HorizontalPodAutoscaler, autoscalers, k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler, [], []}
            {CronJob, cron_jobs, k8s_openapi::api::batch::v1::CronJob, [], []}
            {CertificateSigningRequest, csrs, k8s_openapi::api::certificates::v1::CertificateSigningRequest, [], []}
            {PodDisruptionBudget, budgets, k8s_openapi::api::policy::v1::PodDisruptionBudget, [], []}
            {ClusterRole, cluster_roles, k8s_openapi::api::rbac::v1::ClusterRole, [], []}
            {ServiceCIDR, service_cidrs, k8s_openapi::api::networking::v1::ServiceCIDR, [], []}
            {LoadBalancerPool, pools, $crate::pool::LoadBalancerPool, [], []}
        }
    };
}
pub(crate) use for_each_kind;

/// Evaluates an expression with `$K` bound to the type of a kind.
macro_rules! with_type {
    ($kind:expr, $K:ident => $body:expr) => {
        $crate::cache::kinds::for_each_kind!(with_type! @ $kind, $K, $body,)
    };
    (@ $kind:expr, $K:ident, $body:expr, $({$variant:ident, $field:ident, $type:ty, $index:tt, $transform:tt})*) => {
        match $kind { $($crate::cache::Kind::$variant => { type $K = $type; $body })* }
    };
}
pub(crate) use with_type;

/// Evaluates an expression with `$o` bound to the object in its own type.
macro_rules! with_object {
    ($object:expr, $o:ident => $body:expr) => {
        $crate::cache::kinds::for_each_kind!(with_object! @ $object, $o, $body,)
    };
    (@ $object:expr, $o:ident, $body:expr, $({$variant:ident, $field:ident, $type:ty, $index:tt, $transform:tt})*) => {
        match $object { $($crate::cache::Object::$variant($o) => $body,)* }
    };
}
pub(crate) use with_object;

macro_rules! kinds {
    ($({$variant:ident, $field:ident, $type:ty, $index:tt, $transform:tt})*) => {
        /// Every kind that controllers and scheduler read or write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($variant),* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];
        }

        /// An object of any of the kinds; cheap to clone.
        #[derive(Clone, Debug)]
        pub enum Object { $($variant(Arc<$type>)),* }

        impl Object {
            pub fn kind(&self) -> Kind {
                match self { $(Object::$variant(_) => Kind::$variant),* }
            }
        }

        $(impl From<$type> for Object {
            fn from(object: $type) -> Self { Object::$variant(Arc::new(object)) }
        })*
    };
}
for_each_kind!(kinds!);

impl Kind {
    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(self) -> &'static str {
        with_type!(self, K => <K as Resource>::API_VERSION)
    }

    /// Empty for the core group.
    pub fn group(self) -> &'static str {
        with_type!(self, K => <K as Resource>::GROUP)
    }

    pub fn name(self) -> &'static str {
        with_type!(self, K => <K as Resource>::KIND)
    }
}

impl Object {
    pub fn meta(&self) -> &ObjectMeta {
        with_object!(self, o => o.metadata())
    }
}

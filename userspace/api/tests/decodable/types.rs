//! Every built-in type that a request may carry, with the type that clients decode it into.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Decodes a value. Err: why not.
pub(crate) type Decode = fn(&Value) -> Result<(), serde_json::Error>;

fn decode<T: DeserializeOwned>(value: &Value) -> Result<(), serde_json::Error> {
    T::deserialize(value).map(drop)
}

macro_rules! types {
    ($($schema:literal => $type:ty,)*) => {
        /// The names of types in the schema facts, and their decoders.
        pub(crate) const TYPES: &[(&str, Decode)] = &[$(($schema, decode::<$type>)),*];
    };
}

types! {
    "api.admissionregistration.v1.MutatingAdmissionPolicy" => k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy,
    "api.admissionregistration.v1.MutatingAdmissionPolicyBinding" => k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
    "api.admissionregistration.v1.MutatingWebhookConfiguration" => k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration,
    "api.admissionregistration.v1.ValidatingAdmissionPolicy" => k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy,
    "api.admissionregistration.v1.ValidatingAdmissionPolicyBinding" => k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    "api.admissionregistration.v1.ValidatingWebhookConfiguration" => k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration,
    "api.apps.v1.ControllerRevision" => k8s_openapi::api::apps::v1::ControllerRevision,
    "api.apps.v1.DaemonSet" => k8s_openapi::api::apps::v1::DaemonSet,
    "api.apps.v1.Deployment" => k8s_openapi::api::apps::v1::Deployment,
    "api.apps.v1.ReplicaSet" => k8s_openapi::api::apps::v1::ReplicaSet,
    "api.apps.v1.StatefulSet" => k8s_openapi::api::apps::v1::StatefulSet,
    "api.authentication.v1.SelfSubjectReview" => k8s_openapi::api::authentication::v1::SelfSubjectReview,
    "api.authentication.v1.TokenRequest" => k8s_openapi::api::authentication::v1::TokenRequest,
    "api.authentication.v1.TokenReview" => k8s_openapi::api::authentication::v1::TokenReview,
    "api.authorization.v1.LocalSubjectAccessReview" => k8s_openapi::api::authorization::v1::LocalSubjectAccessReview,
    "api.authorization.v1.SelfSubjectAccessReview" => k8s_openapi::api::authorization::v1::SelfSubjectAccessReview,
    "api.authorization.v1.SelfSubjectRulesReview" => k8s_openapi::api::authorization::v1::SelfSubjectRulesReview,
    "api.authorization.v1.SubjectAccessReview" => k8s_openapi::api::authorization::v1::SubjectAccessReview,
    "api.autoscaling.v1.HorizontalPodAutoscaler" => k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler,
    "api.autoscaling.v1.Scale" => k8s_openapi::api::autoscaling::v1::Scale,
    "api.autoscaling.v2.HorizontalPodAutoscaler" => k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler,
    "api.batch.v1.CronJob" => k8s_openapi::api::batch::v1::CronJob,
    "api.batch.v1.Job" => k8s_openapi::api::batch::v1::Job,
    "api.certificates.v1.CertificateSigningRequest" => k8s_openapi::api::certificates::v1::CertificateSigningRequest,
    "api.coordination.v1.Lease" => k8s_openapi::api::coordination::v1::Lease,
    "api.core.v1.Binding" => k8s_openapi::api::core::v1::Binding,
    "api.core.v1.ComponentStatus" => k8s_openapi::api::core::v1::ComponentStatus,
    "api.core.v1.ConfigMap" => k8s_openapi::api::core::v1::ConfigMap,
    "api.core.v1.Endpoints" => k8s_openapi::api::core::v1::Endpoints,
    "api.core.v1.Event" => k8s_openapi::api::core::v1::Event,
    "api.core.v1.LimitRange" => k8s_openapi::api::core::v1::LimitRange,
    "api.core.v1.Namespace" => k8s_openapi::api::core::v1::Namespace,
    "api.core.v1.Node" => k8s_openapi::api::core::v1::Node,
    "api.core.v1.PersistentVolume" => k8s_openapi::api::core::v1::PersistentVolume,
    "api.core.v1.PersistentVolumeClaim" => k8s_openapi::api::core::v1::PersistentVolumeClaim,
    "api.core.v1.Pod" => k8s_openapi::api::core::v1::Pod,
    "api.core.v1.PodTemplate" => k8s_openapi::api::core::v1::PodTemplate,
    "api.core.v1.ReplicationController" => k8s_openapi::api::core::v1::ReplicationController,
    "api.core.v1.ResourceQuota" => k8s_openapi::api::core::v1::ResourceQuota,
    "api.core.v1.Secret" => k8s_openapi::api::core::v1::Secret,
    "api.core.v1.Service" => k8s_openapi::api::core::v1::Service,
    "api.core.v1.ServiceAccount" => k8s_openapi::api::core::v1::ServiceAccount,
    "api.discovery.v1.EndpointSlice" => k8s_openapi::api::discovery::v1::EndpointSlice,
    "api.events.v1.Event" => k8s_openapi::api::events::v1::Event,
    "api.flowcontrol.v1.FlowSchema" => k8s_openapi::api::flowcontrol::v1::FlowSchema,
    "api.flowcontrol.v1.PriorityLevelConfiguration" => k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration,
    "api.networking.v1.IPAddress" => k8s_openapi::api::networking::v1::IPAddress,
    "api.networking.v1.Ingress" => k8s_openapi::api::networking::v1::Ingress,
    "api.networking.v1.IngressClass" => k8s_openapi::api::networking::v1::IngressClass,
    "api.networking.v1.NetworkPolicy" => k8s_openapi::api::networking::v1::NetworkPolicy,
    "api.networking.v1.ServiceCIDR" => k8s_openapi::api::networking::v1::ServiceCIDR,
    "api.node.v1.RuntimeClass" => k8s_openapi::api::node::v1::RuntimeClass,
    "api.policy.v1.Eviction" => k8s_openapi::api::policy::v1::Eviction,
    "api.policy.v1.PodDisruptionBudget" => k8s_openapi::api::policy::v1::PodDisruptionBudget,
    "api.rbac.v1.ClusterRole" => k8s_openapi::api::rbac::v1::ClusterRole,
    "api.rbac.v1.ClusterRoleBinding" => k8s_openapi::api::rbac::v1::ClusterRoleBinding,
    "api.rbac.v1.Role" => k8s_openapi::api::rbac::v1::Role,
    "api.rbac.v1.RoleBinding" => k8s_openapi::api::rbac::v1::RoleBinding,
    "api.resource.v1.DeviceClass" => k8s_openapi::api::resource::v1::DeviceClass,
    "api.resource.v1.ResourceClaim" => k8s_openapi::api::resource::v1::ResourceClaim,
    "api.resource.v1.ResourceClaimTemplate" => k8s_openapi::api::resource::v1::ResourceClaimTemplate,
    "api.resource.v1.ResourceSlice" => k8s_openapi::api::resource::v1::ResourceSlice,
    "api.scheduling.v1.PriorityClass" => k8s_openapi::api::scheduling::v1::PriorityClass,
    "api.storage.v1.CSIDriver" => k8s_openapi::api::storage::v1::CSIDriver,
    "api.storage.v1.CSINode" => k8s_openapi::api::storage::v1::CSINode,
    "api.storage.v1.CSIStorageCapacity" => k8s_openapi::api::storage::v1::CSIStorageCapacity,
    "api.storage.v1.StorageClass" => k8s_openapi::api::storage::v1::StorageClass,
    "api.storage.v1.VolumeAttachment" => k8s_openapi::api::storage::v1::VolumeAttachment,
    "api.storage.v1.VolumeAttributesClass" => k8s_openapi::api::storage::v1::VolumeAttributesClass,
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" => k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    "kube-aggregator.pkg.apis.apiregistration.v1.APIService" => k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService,
}

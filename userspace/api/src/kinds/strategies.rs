//! Which functions serve which kind.

use super::kind::Strategy;
use super::{
    address, api_service, autoscaler, batch, certificates, classes, containers, disruption, flow, hooks,
    ingress, limits, network, policies, rbac, service, small, storage, workload,
};
use crate::custom::definition;
use crate::names::NameForm;

pub(super) static PLAIN: Strategy = Strategy::NONE;
pub(super) static POD: Strategy = Strategy {
    generation: true,
    default: containers::default_pod,
    validate: containers::validate_pod,
    validate_update: containers::validate_pod_update,
    ..Strategy::NONE
};
pub(super) static POD_TEMPLATE: Strategy =
    Strategy { default: containers::default_pod_template, ..Strategy::NONE };
pub(super) static DEPLOYMENT: Strategy = Strategy {
    generation: true,
    default: workload::default_deployment,
    validate: workload::validate_deployment,
    validate_update: workload::validate_selector_update,
    ..Strategy::NONE
};
pub(super) static REPLICA_SET: Strategy = Strategy {
    generation: true,
    default: workload::default_replica_set,
    validate: workload::validate_replicas_and_template,
    validate_update: workload::validate_selector_update,
    ..Strategy::NONE
};
pub(super) static REPLICATION_CONTROLLER: Strategy =
    Strategy { generation: true, default: workload::default_replication_controller, ..Strategy::NONE };
pub(super) static STATEFUL_SET: Strategy = Strategy {
    generation: true,
    default: workload::default_stateful_set,
    validate: workload::validate_stateful_set,
    validate_update: workload::validate_stateful_set_update,
    ..Strategy::NONE
};
pub(super) static DAEMON_SET: Strategy = Strategy {
    generation: true,
    default: workload::default_daemon_set,
    validate: workload::validate_daemon_set,
    validate_update: workload::validate_selector_update,
    ..Strategy::NONE
};
pub(super) static JOB: Strategy = Strategy {
    generation: true,
    default: batch::default_job,
    validate: batch::validate_job,
    validate_update: batch::validate_job_update,
    ..Strategy::NONE
};
pub(super) static CRON_JOB: Strategy = Strategy {
    generation: true,
    default: batch::default_cron_job,
    validate: batch::validate_cron_job,
    ..Strategy::NONE
};
pub(super) static AUTOSCALER: Strategy = Strategy {
    default: autoscaler::default_autoscaler,
    validate: autoscaler::validate_autoscaler,
    ..Strategy::NONE
};
pub(super) static DISRUPTION_BUDGET: Strategy =
    Strategy { generation: true, validate: disruption::validate_budget, ..Strategy::NONE };
pub(super) static INGRESS: Strategy = Strategy {
    generation: true,
    default: ingress::default_ingress,
    validate: ingress::validate_ingress,
    ..Strategy::NONE
};
pub(super) static INGRESS_CLASS: Strategy = Strategy {
    generation: true,
    default: ingress::default_class,
    validate: ingress::validate_class,
    validate_update: ingress::validate_class_update,
    ..Strategy::NONE
};
pub(super) static VOLUME: Strategy = Strategy {
    default: storage::default_volume,
    validate: storage::validate_volume,
    validate_update: storage::validate_volume_update,
    ..Strategy::NONE
};
pub(super) static CLAIM: Strategy = Strategy {
    default: storage::default_claim,
    validate: storage::validate_claim,
    validate_update: storage::validate_claim_update,
    ..Strategy::NONE
};
pub(super) static STORAGE_CLASS: Strategy = Strategy {
    default: storage::default_class,
    validate: storage::validate_class,
    validate_update: storage::validate_class_update,
    ..Strategy::NONE
};
pub(super) static ATTRIBUTES_CLASS: Strategy =
    Strategy { validate_update: storage::validate_attributes_class_update, ..Strategy::NONE };
pub(super) static ATTACHMENT: Strategy = Strategy {
    validate: storage::validate_attachment,
    validate_update: storage::validate_attachment_update,
    ..Strategy::NONE
};
pub(super) static CSI_DRIVER: Strategy = Strategy { default: storage::default_driver, ..Strategy::NONE };
pub(super) static RUNTIME_CLASS: Strategy = Strategy {
    validate: classes::validate_runtime_class,
    validate_update: classes::validate_runtime_class_update,
    ..Strategy::NONE
};
pub(super) static FLOW_SCHEMA: Strategy = Strategy {
    generation: true,
    default: flow::default_flow_schema,
    validate: flow::validate_flow_schema,
    ..Strategy::NONE
};
pub(super) static PRIORITY_LEVEL: Strategy = Strategy {
    generation: true,
    default: flow::default_priority_level,
    validate: flow::validate_priority_level,
    ..Strategy::NONE
};
pub(super) static SERVICE: Strategy = Strategy {
    default: service::default,
    validate: service::validate,
    validate_update: service::validate_update,
    validate_status: service::validate_status,
    warnings: service::warnings,
    name: NameForm::Label,
    ..Strategy::NONE
};
pub(super) static NETWORK_POLICY: Strategy = Strategy {
    generation: true,
    default: network::default_network_policy,
    validate: network::validate_network_policy,
    ..Strategy::NONE
};
pub(super) static ENDPOINT_SLICE: Strategy = Strategy {
    generation: true,
    default: network::default_endpoint_slice,
    validate: network::validate_endpoint_slice,
    validate_update: network::validate_endpoint_slice_update,
    ..Strategy::NONE
};
pub(super) static ENDPOINTS: Strategy = Strategy { default: network::default_endpoints, ..Strategy::NONE };
pub(super) static NAMESPACE: Strategy =
    Strategy { default: small::default_namespace, name: NameForm::Label, ..Strategy::NONE };
pub(super) static NODE: Strategy = Strategy { validate: small::validate_node, ..Strategy::NONE };
pub(super) static SECRET: Strategy = Strategy {
    default: small::default_secret,
    validate: small::validate_secret,
    validate_update: small::validate_secret_update,
    ..Strategy::NONE
};
pub(super) static CONFIG_MAP: Strategy = Strategy {
    validate: small::validate_config_map,
    validate_update: small::validate_config_map_update,
    ..Strategy::NONE
};
pub(super) static MUTATING_WEBHOOKS: Strategy = Strategy {
    generation: true,
    default: hooks::default_mutating_webhooks,
    validate: hooks::validate_webhooks,
    ..Strategy::NONE
};
pub(super) static VALIDATING_WEBHOOKS: Strategy = Strategy {
    generation: true,
    default: hooks::default_validating_webhooks,
    validate: hooks::validate_webhooks,
    ..Strategy::NONE
};
pub(super) static VALIDATING_POLICY: Strategy = Strategy {
    generation: true,
    default: policies::default_policy,
    validate: policies::validate_validating,
    ..Strategy::NONE
};
pub(super) static VALIDATING_POLICY_BINDING: Strategy = Strategy {
    generation: true,
    default: policies::default_binding,
    validate: policies::validate_validating_binding,
    ..Strategy::NONE
};
pub(super) static MUTATING_POLICY: Strategy =
    Strategy { validate: policies::validate_mutating, ..VALIDATING_POLICY };
pub(super) static MUTATING_POLICY_BINDING: Strategy =
    Strategy { validate: policies::validate_mutating_binding, ..VALIDATING_POLICY_BINDING };
pub(super) static LIMIT_RANGE: Strategy = Strategy {
    default: limits::default_limit_range,
    validate: limits::validate_limit_range,
    ..Strategy::NONE
};
pub(super) static RESOURCE_QUOTA: Strategy = Strategy {
    validate: limits::validate_quota,
    validate_update: limits::validate_quota_update,
    ..Strategy::NONE
};
pub(super) static LEASE: Strategy = Strategy { validate: small::validate_lease, ..Strategy::NONE };
pub(super) static PRIORITY_CLASS: Strategy = Strategy {
    generation: true,
    default: classes::default_priority_class,
    validate: classes::validate_priority_class,
    validate_update: classes::validate_priority_class_update,
    ..Strategy::NONE
};
pub(super) static CSR: Strategy = Strategy {
    validate: certificates::validate_request,
    validate_update: certificates::validate_request_update,
    ..Strategy::NONE
};
pub(super) static ROLE: Strategy =
    Strategy { validate: rbac::validate_role, name: NameForm::PathSegment, ..Strategy::NONE };
pub(super) static ROLE_BINDING: Strategy = Strategy {
    default: rbac::default_binding,
    validate: rbac::validate_binding,
    validate_update: rbac::validate_binding_update,
    name: NameForm::PathSegment,
    ..Strategy::NONE
};
pub(super) static SERVICE_CIDR: Strategy = Strategy {
    validate: address::validate_service_cidr,
    validate_update: address::validate_service_cidr_update,
    ..Strategy::NONE
};
pub(super) static LOAD_BALANCER_POOL: Strategy =
    Strategy { generation: true, validate: address::validate_load_balancer_pool, ..Strategy::NONE };
pub(super) static IP_ADDRESS: Strategy = Strategy {
    validate: address::validate_ip_address,
    validate_update: address::validate_ip_address_update,
    name: NameForm::Address,
    ..Strategy::NONE
};
pub(super) static API_SERVICE: Strategy = Strategy {
    default: api_service::default_api_service,
    validate: api_service::validate_api_service,
    validate_status: api_service::validate_status,
    name: NameForm::PathSegment,
    ..Strategy::NONE
};
pub(super) static CUSTOM_RESOURCE_DEFINITION: Strategy = Strategy {
    generation: true,
    default: definition::default,
    warnings: definition::warnings,
    validate: definition::validate,
    validate_update: definition::validate_update,
    ..Strategy::NONE
};

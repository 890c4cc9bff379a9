//! Which functions serve which kind.

use serde_json::Value;

use super::{Strategy, address, containers, hooks, limits, network, rbac, service, small, workload};
use crate::custom::definition;
use crate::field::Errors;
use crate::meta::NameForm;

fn nothing(_: &mut Value) {}
fn accept(_: &Value, _: &mut Errors) {}
fn silent(_: &Value) -> Vec<String> {
    Vec::new()
}
fn accept_update(_: &Value, _: &Value, _: &mut Errors) {}

pub(super) static PLAIN: Strategy = Strategy {
    generation: false,
    default: nothing,
    validate: accept,
    validate_update: accept_update,
    validate_status: accept,
    warnings: silent,
    name: NameForm::Subdomain,
};

pub(crate) static WITH_GENERATION: Strategy = Strategy { generation: true, ..PLAIN_VALUE };

/// [`PLAIN`] as a constant, to derive the others from.
const PLAIN_VALUE: Strategy = Strategy {
    generation: false,
    default: nothing,
    validate: accept,
    validate_update: accept_update,
    validate_status: accept,
    warnings: silent,
    name: NameForm::Subdomain,
};

pub(super) static POD: Strategy = Strategy {
    generation: true,
    default: containers::default_pod,
    validate: containers::validate_pod,
    validate_update: containers::validate_pod_update,
    ..PLAIN_VALUE
};
pub(super) static POD_TEMPLATE: Strategy =
    Strategy { default: containers::default_pod_template, ..PLAIN_VALUE };
pub(super) static DEPLOYMENT: Strategy = Strategy {
    generation: true,
    default: workload::default_deployment,
    validate: workload::validate_deployment,
    validate_update: workload::validate_selector_update,
    ..PLAIN_VALUE
};
pub(super) static REPLICA_SET: Strategy = Strategy {
    generation: true,
    default: workload::default_replica_set,
    validate: workload::validate_replicas_and_template,
    validate_update: workload::validate_selector_update,
    ..PLAIN_VALUE
};
pub(super) static REPLICATION_CONTROLLER: Strategy =
    Strategy { generation: true, default: workload::default_replication_controller, ..PLAIN_VALUE };
pub(super) static STATEFUL_SET: Strategy = Strategy {
    generation: true,
    default: workload::default_stateful_set,
    validate: workload::validate_replicas_and_template,
    validate_update: workload::validate_selector_update,
    ..PLAIN_VALUE
};
pub(super) static DAEMON_SET: Strategy = Strategy {
    generation: true,
    default: workload::default_daemon_set,
    validate: workload::validate_template_and_selector,
    validate_update: workload::validate_selector_update,
    ..PLAIN_VALUE
};
pub(super) static JOB: Strategy = Strategy {
    generation: true,
    default: workload::default_job,
    validate: workload::validate_job,
    validate_update: workload::validate_job_update,
    ..PLAIN_VALUE
};
pub(super) static CRON_JOB: Strategy =
    Strategy { generation: true, default: workload::default_cron_job, ..PLAIN_VALUE };
pub(super) static SERVICE: Strategy = Strategy {
    default: service::default,
    validate: service::validate,
    validate_update: service::validate_update,
    validate_status: service::validate_status,
    warnings: service::warnings,
    name: NameForm::Label,
    ..PLAIN_VALUE
};
pub(super) static NETWORK_POLICY: Strategy = Strategy {
    generation: true,
    default: network::default_network_policy,
    validate: network::validate_network_policy,
    ..PLAIN_VALUE
};
pub(super) static ENDPOINT_SLICE: Strategy = Strategy {
    generation: true,
    default: network::default_endpoint_slice,
    validate: network::validate_endpoint_slice,
    validate_update: network::validate_endpoint_slice_update,
    ..PLAIN_VALUE
};
pub(super) static ENDPOINTS: Strategy = Strategy { default: network::default_endpoints, ..PLAIN_VALUE };
pub(super) static NAMESPACE: Strategy =
    Strategy { default: small::default_namespace, name: NameForm::Label, ..PLAIN_VALUE };
pub(super) static NODE: Strategy = Strategy { validate: small::validate_node, ..PLAIN_VALUE };
pub(super) static SECRET: Strategy = Strategy {
    default: small::default_secret,
    validate: small::validate_secret,
    validate_update: small::validate_secret_update,
    ..PLAIN_VALUE
};
pub(super) static CONFIG_MAP: Strategy = Strategy {
    validate: small::validate_config_map,
    validate_update: small::validate_config_map_update,
    ..PLAIN_VALUE
};
pub(super) static MUTATING_WEBHOOKS: Strategy = Strategy {
    generation: true,
    default: hooks::default_mutating_webhooks,
    validate: hooks::validate_webhooks,
    ..PLAIN_VALUE
};
pub(super) static VALIDATING_WEBHOOKS: Strategy = Strategy {
    generation: true,
    default: hooks::default_validating_webhooks,
    validate: hooks::validate_webhooks,
    ..PLAIN_VALUE
};
pub(super) static ADMISSION_POLICY: Strategy = Strategy {
    generation: true,
    default: hooks::default_policy,
    validate: hooks::validate_policy,
    ..PLAIN_VALUE
};
pub(super) static ADMISSION_POLICY_BINDING: Strategy = Strategy {
    generation: true,
    default: hooks::default_policy_binding,
    validate: hooks::validate_policy_binding,
    ..PLAIN_VALUE
};
pub(super) static LIMIT_RANGE: Strategy =
    Strategy { default: limits::default_limit_range, validate: limits::validate_limit_range, ..PLAIN_VALUE };
pub(super) static RESOURCE_QUOTA: Strategy = Strategy {
    validate: limits::validate_quota,
    validate_update: limits::validate_quota_update,
    ..PLAIN_VALUE
};
pub(super) static LEASE: Strategy = Strategy { validate: small::validate_lease, ..PLAIN_VALUE };
pub(super) static PRIORITY_CLASS: Strategy = Strategy {
    generation: true,
    default: small::default_priority_class,
    validate_update: small::validate_priority_class_update,
    ..PLAIN_VALUE
};
pub(super) static CSR: Strategy = Strategy { validate_update: small::validate_csr_update, ..PLAIN_VALUE };
pub(super) static ROLE: Strategy =
    Strategy { validate: rbac::validate_role, name: NameForm::PathSegment, ..PLAIN_VALUE };
pub(super) static ROLE_BINDING: Strategy = Strategy {
    default: rbac::default_binding,
    validate: rbac::validate_binding,
    validate_update: rbac::validate_binding_update,
    name: NameForm::PathSegment,
    ..PLAIN_VALUE
};
pub(super) static SERVICE_CIDR: Strategy = Strategy {
    validate: address::validate_service_cidr,
    validate_update: address::validate_service_cidr_update,
    ..PLAIN_VALUE
};
pub(super) static LOAD_BALANCER_POOL: Strategy =
    Strategy { generation: true, validate: address::validate_load_balancer_pool, ..PLAIN_VALUE };
pub(super) static IP_ADDRESS: Strategy = Strategy {
    validate: address::validate_ip_address,
    validate_update: address::validate_ip_address_update,
    name: NameForm::Address,
    ..PLAIN_VALUE
};
pub(super) static CUSTOM_RESOURCE_DEFINITION: Strategy = Strategy {
    generation: true,
    default: definition::default,
    warnings: definition::warnings,
    validate: definition::validate,
    validate_update: definition::validate_update,
    ..PLAIN_VALUE
};

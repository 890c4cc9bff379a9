//! The columns of each kind, as upstream's printers have them.

use super::{Cell, Column, cells as c, pod, settings as x, storage as v};
use crate::kinds::Kind;

const fn column(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", wide: false, cell }
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", wide: true, cell }
}

const fn integer(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "integer", wide: false, cell }
}

const fn boolean(name: &'static str, cell: Cell) -> Column {
    Column { name, kind: "boolean", wide: false, cell }
}

const NAME: Column = column("Name", c::name);
const AGE: Column = column("Age", c::age);
const CREATED: Column = column("Created At", c::created);

pub(super) fn built_in(kind: &Kind) -> &'static [Column] {
    match kind.group {
        "" => core(kind.kind),
        "apps" => apps(kind.kind),
        "batch" => batch(kind.kind),
        "networking.k8s.io" | "discovery.k8s.io" => network(kind.kind),
        "rbac.authorization.k8s.io" => rbac(kind.kind),
        "storage.k8s.io" => storage(kind.kind),
        "admissionregistration.k8s.io" => admission(kind.kind),
        "resource.k8s.io" => resource(kind.kind),
        "flowcontrol.apiserver.k8s.io" => flow(kind.kind),
        _ => other(kind),
    }
}

fn core(kind: &str) -> &'static [Column] {
    match kind {
        "Pod" => POD,
        "PodTemplate" => POD_TEMPLATE,
        "ReplicationController" => REPLICATION_CONTROLLER,
        "Service" => SERVICE,
        "Endpoints" => const { &[NAME, column("Endpoints", c::endpoints), AGE] },
        "Node" => NODE,
        "Namespace" => const { &[NAME, column("Status", c::phase), AGE] },
        "ConfigMap" => const { &[NAME, column("Data", c::config_data), AGE] },
        "Secret" => const { &[NAME, column("Type", c::kind_of_secret), column("Data", c::data), AGE] },
        "ServiceAccount" => const { &[NAME, AGE] },
        "Event" => EVENT,
        "PersistentVolume" => PERSISTENT_VOLUME,
        "PersistentVolumeClaim" => CLAIM,
        "ResourceQuota" => {
            const { &[NAME, column("Request", x::quota_requests), column("Limit", x::quota_limits), AGE] }
        }
        "ComponentStatus" => COMPONENT_STATUS,
        _ => const { &[NAME, CREATED] },
    }
}

fn apps(kind: &str) -> &'static [Column] {
    match kind {
        "Deployment" => DEPLOYMENT,
        "ReplicaSet" => REPLICA_SET,
        "StatefulSet" => STATEFUL_SET,
        "DaemonSet" => DAEMON_SET,
        _ => const { &[NAME, column("Controller", x::controller), column("Revision", x::revision), AGE] },
    }
}

fn batch(kind: &str) -> &'static [Column] {
    if kind == "Job" { JOB } else { CRON_JOB }
}

fn network(kind: &str) -> &'static [Column] {
    match kind {
        "NetworkPolicy" => const { &[NAME, column("Pod-Selector", c::pod_selector), AGE] },
        "Ingress" => INGRESS,
        "IngressClass" => INGRESS_CLASS,
        "IPAddress" => const { &[NAME, column("ParentRef", x::parent), AGE] },
        "ServiceCIDR" => const { &[NAME, column("CIDRs", x::cidrs), AGE] },
        _ => ENDPOINT_SLICE,
    }
}

fn rbac(kind: &str) -> &'static [Column] {
    match kind {
        "RoleBinding" | "ClusterRoleBinding" => BINDING,
        _ => const { &[NAME, CREATED] },
    }
}

fn storage(kind: &str) -> &'static [Column] {
    match kind {
        "StorageClass" => STORAGE_CLASS,
        "VolumeAttributesClass" => const { &[NAME, column("DriverName", v::driver_name), AGE] },
        "VolumeAttachment" => VOLUME_ATTACHMENT,
        "CSINode" => const { &[NAME, integer("Drivers", v::drivers), AGE] },
        "CSIDriver" => CSI_DRIVER,
        _ => const { &[NAME, column("StorageClassName", v::capacity_class), column("Capacity", v::free)] },
    }
}

fn admission(kind: &str) -> &'static [Column] {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            const { &[NAME, integer("Webhooks", x::webhooks), AGE] }
        }
        "ValidatingAdmissionPolicy" => {
            const { &[NAME, integer("Validations", x::validations), column("ParamKind", x::param_kind), AGE] }
        }
        "MutatingAdmissionPolicy" => {
            const { &[NAME, integer("Mutations", x::mutations), column("ParamKind", x::param_kind), AGE] }
        }
        _ => const { &[NAME, column("PolicyName", x::policy), column("ParamRef", x::param), AGE] },
    }
}

fn resource(kind: &str) -> &'static [Column] {
    match kind {
        "ResourceClaim" => const { &[NAME, column("State", x::claim_state), AGE] },
        "ResourceSlice" => RESOURCE_SLICE,
        _ => const { &[NAME, AGE] },
    }
}

fn flow(kind: &str) -> &'static [Column] {
    if kind == "FlowSchema" { FLOW_SCHEMA } else { PRIORITY_LEVEL }
}

fn other(kind: &Kind) -> &'static [Column] {
    match (kind.group, kind.kind) {
        ("events.k8s.io", _) => EVENT,
        ("policy", _) => DISRUPTION_BUDGET,
        ("autoscaling", _) => AUTOSCALER,
        ("coordination.k8s.io", "Lease") => const { &[NAME, column("Holder", c::holder), AGE] },
        ("certificates.k8s.io", "CertificateSigningRequest") => CSR,
        ("scheduling.k8s.io", "PriorityClass") => PRIORITY_CLASS,
        ("node.k8s.io", "RuntimeClass") => const { &[NAME, column("Handler", x::handler), AGE] },
        ("apiregistration.k8s.io", "APIService") => API_SERVICE,
        ("skep.io", "LoadBalancerPool") => const { &[NAME, column("CIDRs", x::cidrs), AGE] },
        _ => const { &[NAME, CREATED] },
    }
}

const POD: &[Column] = &[
    NAME,
    column("Ready", pod::ready),
    column("Status", pod::status),
    column("Restarts", pod::restarts),
    AGE,
    wide("IP", pod::ip),
    wide("Node", pod::node),
    wide("Nominated Node", pod::nominated),
    wide("Readiness Gates", pod::gates),
];
const POD_TEMPLATE: &[Column] = &[
    NAME,
    column("Containers", x::template_containers),
    column("Images", x::template_images),
    column("Pod Labels", x::template_labels),
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", c::ready_of_replicas),
    column("Up-to-date", c::updated),
    column("Available", c::available),
    AGE,
    wide("Containers", c::containers),
    wide("Images", c::images),
    wide("Selector", c::selector),
];
const REPLICA_SET: &[Column] = &[
    NAME,
    integer("Desired", c::desired),
    integer("Current", c::current),
    integer("Ready", c::ready),
    AGE,
    wide("Containers", c::containers),
    wide("Images", c::images),
    wide("Selector", c::selector),
];
const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    integer("Desired", c::desired),
    integer("Current", c::current),
    integer("Ready", c::ready),
    AGE,
    wide("Containers", c::containers),
    wide("Images", c::images),
    wide("Selector", c::plain_selector),
];
const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", c::ready_of_replicas),
    AGE,
    wide("Containers", c::containers),
    wide("Images", c::images),
];
const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired", c::daemon_desired),
    integer("Current", c::daemon_current),
    integer("Ready", c::daemon_ready),
    integer("Up-to-date", c::daemon_updated),
    integer("Available", c::daemon_available),
    column("Node Selector", c::node_selector),
    AGE,
    wide("Containers", c::containers),
    wide("Images", c::images),
    wide("Selector", c::selector),
];
const JOB: &[Column] = &[
    NAME,
    column("Status", c::job_status),
    column("Completions", c::completions),
    column("Duration", c::job_duration),
    AGE,
    wide("Containers", c::containers),
    wide("Images", c::images),
    wide("Selector", c::selector),
];
const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", x::schedule),
    column("Timezone", x::time_zone),
    boolean("Suspend", x::suspend),
    integer("Active", x::active),
    column("Last Schedule", x::last_schedule),
    AGE,
    wide("Containers", x::job_containers),
    wide("Images", x::job_images),
    wide("Selector", x::job_selector),
];
const SERVICE: &[Column] = &[
    NAME,
    column("Type", c::service_type),
    column("Cluster-IP", c::cluster_ip),
    column("External-IP", c::external_ip),
    column("Port(s)", c::service_ports),
    AGE,
    wide("Selector", c::plain_selector),
];
const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", c::address_type),
    column("Ports", c::slice_ports),
    column("Endpoints", c::slice_endpoints),
    AGE,
];
const INGRESS: &[Column] = &[
    NAME,
    column("Class", x::ingress_class),
    column("Hosts", x::hosts),
    column("Address", x::ingress_address),
    column("Ports", x::ingress_ports),
    AGE,
];
const INGRESS_CLASS: &[Column] = &[
    column("Name", x::ingress_class_name),
    column("Controller", x::ingress_controller),
    column("Parameters", x::parameters),
    AGE,
];
const NODE: &[Column] = &[
    NAME,
    column("Status", c::node_status),
    column("Roles", c::node_roles),
    AGE,
    column("Version", c::node_version),
    wide("Internal-IP", c::internal_ip),
    wide("External-IP", c::node_external_ip),
    wide("OS-Image", c::os_image),
    wide("Kernel-Version", c::kernel),
    wide("Container-Runtime", c::runtime),
];
const EVENT: &[Column] = &[
    column("Last Seen", c::last_seen),
    column("Type", c::event_type),
    column("Reason", c::reason),
    column("Object", c::event_object),
    wide("Subobject", c::subobject),
    wide("Source", c::source),
    column("Message", c::message),
    wide("First Seen", c::first_seen),
    wide("Count", c::count),
    wide("Name", c::name),
];
const COMPONENT_STATUS: &[Column] = &[
    NAME,
    column("Status", x::component_status),
    column("Message", x::component_message),
    column("Error", x::component_error),
];
const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    column("Capacity", v::volume_capacity),
    column("Access Modes", v::volume_modes),
    column("Reclaim Policy", v::reclaim_policy),
    column("Status", v::phase),
    column("Claim", v::claim),
    column("StorageClass", v::volume_class),
    column("VolumeAttributesClass", v::attributes_class),
    column("Reason", v::volume_reason),
    AGE,
    wide("VolumeMode", v::volume_mode),
];
const CLAIM: &[Column] = &[
    NAME,
    column("Status", v::phase),
    column("Volume", v::volume),
    column("Capacity", v::claim_capacity),
    column("Access Modes", v::claim_modes),
    column("StorageClass", v::volume_class),
    column("VolumeAttributesClass", v::attributes_class),
    AGE,
    wide("VolumeMode", v::volume_mode),
];
const STORAGE_CLASS: &[Column] = &[
    column("Name", v::class_name),
    column("Provisioner", v::provisioner),
    column("ReclaimPolicy", v::class_reclaim_policy),
    column("VolumeBindingMode", v::binding_mode),
    column("AllowVolumeExpansion", v::expansion),
    AGE,
];
const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    column("Attacher", v::attacher),
    column("PV", v::attached_volume),
    column("Node", v::attached_node),
    boolean("Attached", v::attached),
    AGE,
];
const CSI_DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired", v::attach_required),
    boolean("PodInfoOnMount", v::pod_info),
    boolean("StorageCapacity", v::storage_capacity),
    column("TokenRequests", v::token_requests),
    boolean("RequiresRepublish", v::republish),
    column("Modes", v::lifecycle_modes),
    AGE,
];
const BINDING: &[Column] = &[
    NAME,
    column("Role", c::role),
    AGE,
    wide("Users", x::users),
    wide("Groups", x::groups),
    wide("ServiceAccounts", x::service_accounts),
];
const CSR: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", c::signer),
    column("Requestor", c::requestor),
    column("RequestedDuration", x::requested_duration),
    column("Condition", c::csr_condition),
];
const PRIORITY_CLASS: &[Column] = &[
    NAME,
    integer("Value", c::value),
    boolean("Global-Default", c::global_default),
    AGE,
    wide("PreemptionPolicy", x::preemption_policy),
];
const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", x::min_available),
    column("Max Unavailable", x::max_unavailable),
    integer("Allowed Disruptions", x::allowed_disruptions),
    AGE,
];
const AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", x::scale_target),
    column("Targets", x::metrics),
    column("MinPods", x::min_replicas),
    column("MaxPods", x::max_replicas),
    column("Replicas", x::current_replicas),
    AGE,
];
const RESOURCE_SLICE: &[Column] = &[
    NAME,
    column("Node", x::slice_node),
    column("Driver", x::slice_driver),
    column("Pool", x::slice_pool),
    AGE,
];
const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column("PriorityLevel", x::priority_level),
    column("MatchingPrecedence", x::precedence),
    column("DistinguisherMethod", x::distinguisher),
    AGE,
    column("MissingPL", x::dangling),
];
const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    column("Type", x::level_type),
    column("NominalConcurrencyShares", x::shares),
    column("Queues", x::queues),
    column("HandSize", x::hand_size),
    column("QueueLengthLimit", x::queue_length),
    AGE,
];
const API_SERVICE: &[Column] =
    &[NAME, column("Service", x::api_service), column("Available", x::api_available), AGE];

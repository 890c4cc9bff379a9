//! Tables, as `kubectl get` shows them: a kind's columns, an object's cells.

mod cells;
mod pod;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::custom::columns;
use crate::kinds::Kind;

/// A column; priority 1 shows only in `-o wide`.
struct Column {
    name: &'static str,
    wide: bool,
    cell: Cell,
}

type Cell = fn(&Value, Timestamp) -> Value;

const fn column(name: &'static str, cell: Cell) -> Column {
    Column { name, wide: false, cell }
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, wide: true, cell }
}

fn built_in(kind: &Kind) -> &'static [Column] {
    use cells as c;
    match (kind.group, kind.kind) {
        ("", "Pod") => {
            const {
                &[
                    column("Name", c::name),
                    column("Ready", pod::ready),
                    column("Status", pod::status),
                    column("Restarts", pod::restarts),
                    column("Age", c::age),
                    wide("IP", pod::ip),
                    wide("Node", pod::node),
                    wide("Nominated Node", pod::nominated),
                    wide("Readiness Gates", pod::gates),
                ]
            }
        }
        ("apps", "Deployment") => {
            const {
                &[
                    column("Name", c::name),
                    column("Ready", c::ready_of_replicas),
                    column("Up-to-date", c::updated),
                    column("Available", c::available),
                    column("Age", c::age),
                    wide("Containers", c::containers),
                    wide("Images", c::images),
                    wide("Selector", c::selector),
                ]
            }
        }
        ("apps", "ReplicaSet") | ("", "ReplicationController") => {
            const {
                &[
                    column("Name", c::name),
                    column("Desired", c::desired),
                    column("Current", c::current),
                    column("Ready", c::ready),
                    column("Age", c::age),
                    wide("Containers", c::containers),
                    wide("Images", c::images),
                    wide("Selector", c::selector),
                ]
            }
        }
        ("apps", "StatefulSet") => {
            const {
                &[
                    column("Name", c::name),
                    column("Ready", c::ready_of_replicas),
                    column("Age", c::age),
                    wide("Containers", c::containers),
                    wide("Images", c::images),
                ]
            }
        }
        ("apps", "DaemonSet") => {
            const {
                &[
                    column("Name", c::name),
                    column("Desired", c::daemon_desired),
                    column("Current", c::daemon_current),
                    column("Ready", c::daemon_ready),
                    column("Up-to-date", c::daemon_updated),
                    column("Available", c::daemon_available),
                    column("Node Selector", c::node_selector),
                    column("Age", c::age),
                    wide("Containers", c::containers),
                    wide("Images", c::images),
                    wide("Selector", c::selector),
                ]
            }
        }
        ("batch", "Job") => {
            const {
                &[
                    column("Name", c::name),
                    column("Status", c::job_status),
                    column("Completions", c::completions),
                    column("Duration", c::job_duration),
                    column("Age", c::age),
                    wide("Containers", c::containers),
                    wide("Images", c::images),
                    wide("Selector", c::selector),
                ]
            }
        }
        ("", "Service") => {
            const {
                &[
                    column("Name", c::name),
                    column("Type", c::service_type),
                    column("Cluster-IP", c::cluster_ip),
                    column("External-IP", c::external_ip),
                    column("Port(s)", c::service_ports),
                    column("Age", c::age),
                    wide("Selector", c::plain_selector),
                ]
            }
        }
        ("", "Endpoints") => {
            const { &[column("Name", c::name), column("Endpoints", c::endpoints), column("Age", c::age)] }
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            const {
                &[
                    column("Name", c::name),
                    column("AddressType", c::address_type),
                    column("Ports", c::slice_ports),
                    column("Endpoints", c::slice_endpoints),
                    column("Age", c::age),
                ]
            }
        }
        ("networking.k8s.io", "ServiceCIDR") | ("skep.io", "LoadBalancerPool") => {
            const { &[column("Name", c::name), column("CIDRs", c::cidrs), column("Age", c::age)] }
        }
        ("networking.k8s.io", "IPAddress") => {
            const { &[column("Name", c::name), column("ParentRef", c::parent_ref), column("Age", c::age)] }
        }
        ("networking.k8s.io", "NetworkPolicy") => {
            const { &[column("Name", c::name), column("Pod-Selector", c::pod_selector), column("Age", c::age)] }
        }
        ("", "Node") => {
            const {
                &[
                    column("Name", c::name),
                    column("Status", c::node_status),
                    column("Roles", c::node_roles),
                    column("Age", c::age),
                    column("Version", c::node_version),
                    wide("Internal-IP", c::internal_ip),
                    wide("External-IP", c::node_external_ip),
                    wide("OS-Image", c::os_image),
                    wide("Kernel-Version", c::kernel),
                    wide("Container-Runtime", c::runtime),
                ]
            }
        }
        ("", "Namespace") => {
            const { &[column("Name", c::name), column("Status", c::phase), column("Age", c::age)] }
        }
        ("", "ConfigMap") => {
            const { &[column("Name", c::name), column("Data", c::config_data), column("Age", c::age)] }
        }
        ("", "Secret") => {
            const {
                &[
                    column("Name", c::name),
                    column("Type", c::kind_of_secret),
                    column("Data", c::data),
                    column("Age", c::age),
                ]
            }
        }
        ("", "ServiceAccount") => {
            const { &[column("Name", c::name), column("Secrets", c::secrets), column("Age", c::age)] }
        }
        ("", "Event") => {
            const {
                &[
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
                ]
            }
        }
        ("coordination.k8s.io", "Lease") => {
            const { &[column("Name", c::name), column("Holder", c::holder), column("Age", c::age)] }
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole")
        | ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            const { &[column("Name", c::name), column("Created At", c::created)] }
        }
        ("rbac.authorization.k8s.io", _) => {
            const { &[column("Name", c::name), column("Role", c::role), column("Age", c::age)] }
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            const {
                &[
                    column("Name", c::name),
                    column("Age", c::age),
                    column("SignerName", c::signer),
                    column("Requestor", c::requestor),
                    column("Condition", c::csr_condition),
                ]
            }
        }
        ("scheduling.k8s.io", "PriorityClass") => {
            const {
                &[
                    column("Name", c::name),
                    column("Value", c::value),
                    column("Global-Default", c::global_default),
                    column("Age", c::age),
                ]
            }
        }
        _ => const { &[column("Name", c::name), column("Age", c::age)] },
    }
}

/// `columnDefinitions` of the kind's table.
pub fn definitions(kind: &Kind) -> Value {
    if let Some(custom) = &kind.custom {
        return columns::definitions(&custom.version.columns);
    }
    let definitions = built_in(kind).iter().map(|column| {
        let format = if column.name == "Name" { "name" } else { "" };
        json!({
            "name": column.name, "type": "string", "format": format, "description": "",
            "priority": i32::from(column.wide),
        })
    });
    definitions.collect()
}

/// The object's cells, as many as there are columns.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Value {
    if let Some(custom) = &kind.custom {
        return columns::cells(&custom.version.columns, object, now);
    }
    built_in(kind).iter().map(|column| (column.cell)(object, now)).collect()
}

/// A span as upstream shortens it: `12s`, `3m4s`, `5h6m`, `2d`, `3y20d`.
pub(crate) fn age_of(since: &Value, now: Timestamp) -> String {
    match since.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(since) => short((now.as_second() - since.as_second()).max(0)),
        None => "<unknown>".to_owned(),
    }
}

pub(crate) fn short(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |first: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{first}{unit}") } else { format!("{first}{unit}{rest}{small}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_shortened_as_upstream_does() {
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (700, "11m"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(short(seconds), text);
        }
    }

    #[test]
    fn every_kind_has_a_cell_for_each_column_even_of_an_empty_object() {
        for kind in crate::kinds() {
            let cells = cells(kind, &json!({}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.as_array().map(Vec::len), definitions(kind).as_array().map(Vec::len));
        }
    }
}

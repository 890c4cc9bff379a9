//! PURE. The downward API: a pod's own fields and resources as text, for environments and volumes.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::resources;

/// The values that fields and resources refer to.
#[derive(Debug, Clone, Copy)]
pub struct PodFacts<'a> {
    pub pod: &'a Pod,
    pub host_ips: &'a [String],
    pub pod_ips: &'a [String],
    pub allocatable: Allocatable,
}

/// The node's allocatable resources, which replace limits that are not set. In thousandths of a CPU, and bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocatable {
    pub cpu_milli: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
}

impl<'a> PodFacts<'a> {
    pub fn new(
        pod: &'a Pod,
        host_ips: &'a [String],
        pod_ips: &'a [String],
        allocatable: Allocatable,
    ) -> Self {
        Self { pod, host_ips, pod_ips, allocatable }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
}

/// The field at `path` of the pod.
pub fn field(facts: &PodFacts<'_>, path: &str) -> Result<String, FieldError> {
    let meta = &facts.pod.metadata;
    if let Some((base, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match base {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let spec = facts.pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

/// `key="value"` lines, quoted as Go does.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = write!(out, "{key}={value:?}");
    }
    out
}

/// A request or limit of a container, divided and rounded up.
pub fn resource(
    facts: &PodFacts<'_>,
    selector: &ResourceFieldSelector,
    own: &Container,
) -> Result<String, FieldError> {
    let spec = facts.pod.spec.as_ref();
    let container = match selector.container_name.as_deref().filter(|n| !n.is_empty()) {
        None => own,
        Some(name) => spec
            .into_iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .find(|c| c.name == name)
            .ok_or_else(|| FieldError::Container(name.to_owned()))?,
    };
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name));
    let request = resources.and_then(|r| r.requests.as_ref()).and_then(|l| l.get(name));
    let chosen = match list {
        "limits" => limit,
        "requests" => request.or(limit),
        _ => return Err(unsupported()),
    };
    let value = match chosen.and_then(resources::milli) {
        Some(milli) => milli,
        None if list == "requests" => 0,
        None => match name {
            "cpu" => facts.allocatable.cpu_milli.into(),
            "memory" => i128::from(facts.allocatable.memory) * 1000,
            "ephemeral-storage" => i128::from(facts.allocatable.ephemeral_storage) * 1000,
            _ => 0,
        },
    };
    let divisor = selector.divisor.as_ref().and_then(resources::milli).filter(|d| *d > 0).unwrap_or(1000);
    Ok(((value + divisor - 1) / divisor).to_string())
}

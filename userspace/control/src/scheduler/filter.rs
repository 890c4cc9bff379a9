//! Whether a pod can run on a node, looking at that node alone. PURE.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};
use skep_api::fit::{Amounts, HostPort, admits, conflicts, host_ports, requested, tolerated, tolerates};

use super::reason::Reason;
use super::snapshot::{NodeInfo, Snapshot};
use super::volumes::{ClaimProblem, PodVolumes};

/// What the filters compare with a node, computed once for a pod.
pub(super) struct Requirements<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) requested: Amounts,
    pub(super) ports: Vec<HostPort>,
    pub(super) volumes: PodVolumes,
}

impl<'a> Requirements<'a> {
    /// Err: why no node can take the pod.
    pub(super) fn of(snapshot: &Snapshot, pod: &'a Pod, spec: &'a PodSpec) -> Result<Self, ClaimProblem> {
        let volumes = snapshot.volumes.of_pod(pod)?;
        Ok(Requirements { pod, spec, requested: requested(pod), ports: host_ports(pod), volumes })
    }
}

/// The first reason why the pod cannot run there; all missing resources, and all that is against its volumes.
pub(super) fn check(
    requirements: &Requirements<'_>,
    info: &NodeInfo,
    node: &Node,
) -> Result<(), Vec<Reason>> {
    admits_statically(requirements, node).map_err(|reason| vec![reason])?;
    if requirements.ports.iter().any(|port| info.ports.iter().any(|taken| conflicts(port, taken))) {
        return Err(vec![Reason::Ports]);
    }
    let missing = missing_resources(requirements, info);
    if !missing.is_empty() {
        return Err(missing);
    }
    let reasons = requirements.volumes.check(node);
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

/// The checks whose result does not depend on other pods.
pub(super) fn admits_statically(requirements: &Requirements<'_>, node: &Node) -> Result<(), Reason> {
    let tolerations = requirements.spec.tolerations.as_deref().unwrap_or_default();
    if is_unschedulable(node, tolerations) {
        Err(Reason::Unschedulable)
    } else if !tolerated(tolerations, node, &["NoSchedule", "NoExecute"]) {
        Err(Reason::Taint)
    } else if !admits(requirements.spec, node) {
        Err(Reason::NodeAffinity)
    } else {
        Ok(())
    }
}

fn is_unschedulable(node: &Node, tolerations: &[Toleration]) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
        && !tolerations.iter().any(|toleration| tolerates(toleration, &taint))
}

fn missing_resources(requirements: &Requirements<'_>, info: &NodeInfo) -> Vec<Reason> {
    let mut missing = Vec::new();
    if info.pods.len() as i64 + 1 > info.max_pods {
        missing.push(Reason::TooManyPods);
    }
    let (requested, has, used) = (&requirements.requested, &info.allocatable, &info.requested);
    let mut need = |name: &str, requested: i64, has: i64, used: i64| {
        if requested > 0 && requested > has.saturating_sub(used) {
            missing.push(Reason::Insufficient(name.to_owned()));
        }
    };
    need("cpu", requested.cpu, has.cpu, used.cpu);
    need("memory", requested.memory, has.memory, used.memory);
    need("ephemeral-storage", requested.storage, has.storage, used.storage);
    for (name, amount) in &requested.others {
        let of = |resources: &Amounts| resources.others.get(name).copied().unwrap_or(0);
        need(name, *amount, of(has), of(used));
    }
    missing
}

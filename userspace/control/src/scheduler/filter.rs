//! Whether a pod can run on a node, looking at that node alone. PURE.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};
use skep_api::fit::{Amounts, admits, conflicts, host_ports, requested, tolerated, tolerates};

use super::reason::Reason;
use super::room::{Demand, Room};
use super::snapshot::Snapshot;
use super::volumes::{ClaimProblem, PodVolumes};

/// What the filters compare with a node, computed once for a pod.
pub(super) struct Requirements<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) demand: Demand,
    pub(super) volumes: PodVolumes,
}

impl<'a> Requirements<'a> {
    /// Err: why no node can take the pod.
    pub(super) fn of(snapshot: &Snapshot, pod: &'a Pod, spec: &'a PodSpec) -> Result<Self, ClaimProblem> {
        let volumes = snapshot.volumes.of_pod(pod)?;
        let demand = Demand { requested: requested(pod), ports: host_ports(pod) };
        Ok(Requirements { pod, spec, demand, volumes })
    }
}

/// The first reason why the pod cannot run there; all missing resources, and all that is against its volumes.
pub(super) fn check(requirements: &Requirements<'_>, room: &Room, node: &Node) -> Result<(), Vec<Reason>> {
    admits_statically(requirements, node).map_err(|reason| vec![reason])?;
    if !has_free_ports(&requirements.demand, room) {
        return Err(vec![Reason::Ports]);
    }
    let missing: Vec<Reason> = missing_resources(&requirements.demand.requested, room).collect();
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

/// Whether the ports and the resources of a pod are free.
pub(super) fn has_room(demand: &Demand, room: &Room) -> bool {
    has_free_ports(demand, room) && missing_resources(&demand.requested, room).next().is_none()
}

fn has_free_ports(demand: &Demand, room: &Room) -> bool {
    !demand.ports.iter().any(|port| room.ports().any(|taken| conflicts(port, taken)))
}

fn missing_resources<'a>(requested: &'a Amounts, room: &'a Room) -> impl Iterator<Item = Reason> + 'a {
    let (has, used) = (&room.allocatable, &room.requested);
    let is_missing =
        |requested: i64, has: i64, used: i64| requested > 0 && requested > has.saturating_sub(used);
    let named = [
        ("cpu", requested.cpu, has.cpu, used.cpu),
        ("memory", requested.memory, has.memory, used.memory),
        ("ephemeral-storage", requested.storage, has.storage, used.storage),
    ];
    let named = named
        .into_iter()
        .filter_map(move |(name, requested, has, used)| is_missing(requested, has, used).then_some(name));
    let others = requested.others.iter().filter_map(move |(name, amount)| {
        let of = |amounts: &Amounts| amounts.others.get(name).copied().unwrap_or(0);
        is_missing(*amount, of(has), of(used)).then_some(name.as_str())
    });
    let pods = (room.pods + 1 > room.max_pods).then_some(Reason::TooManyPods);
    pods.into_iter().chain(named.chain(others).map(|name| Reason::Insufficient(name.to_owned())))
}

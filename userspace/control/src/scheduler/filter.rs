//! Whether a pod can run on a node, looking at that node alone. PURE. The reasons are upstream's: people know them.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};

use super::resources::Resources;
use super::snapshot::{HostPort, NodeInfo};
use crate::controllers::nodes::{admits, tolerated};
use crate::controllers::taint_eviction::tolerates;

/// What of a pod the filters look at, worked out once.
pub struct Wanted<'a> {
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
    pub requested: Resources,
    pub ports: Vec<HostPort>,
}

/// The first reason why the pod cannot run there.
pub fn check(wanted: &Wanted<'_>, info: &NodeInfo, node: &Node) -> Result<(), Vec<String>> {
    let tolerations = wanted.spec.tolerations.as_deref().unwrap_or_default();
    let reason = if is_unschedulable(node, tolerations) {
        "node(s) were unschedulable"
    } else if !tolerated(tolerations, node, &["NoSchedule", "NoExecute"]) {
        "node(s) had untolerated taint(s)"
    } else if !admits(wanted.spec, node) {
        "node(s) didn't match Pod's node affinity/selector"
    } else if wanted.ports.iter().any(|port| info.ports.iter().any(|taken| clash(port, taken))) {
        "node(s) didn't have free ports for the requested pod ports"
    } else {
        let missing = missing_room(wanted, info);
        return if missing.is_empty() { Ok(()) } else { Err(missing) };
    };
    Err(vec![reason.to_owned()])
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

/// The empty address is every address.
fn clash(a: &HostPort, b: &HostPort) -> bool {
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1.is_empty() || b.1.is_empty())
}

fn missing_room(wanted: &Wanted<'_>, info: &NodeInfo) -> Vec<String> {
    let mut missing = Vec::new();
    if info.pods.len() as i64 + 1 > info.most_pods {
        missing.push("Too many pods".to_owned());
    }
    let (asked, has, used) = (&wanted.requested, &info.allocatable, &info.requested);
    let mut need = |name: &str, asked: i64, has: i64, used: i64| {
        if asked > 0 && asked > has.saturating_sub(used) {
            missing.push(format!("Insufficient {name}"));
        }
    };
    need("cpu", asked.cpu, has.cpu, used.cpu);
    need("memory", asked.memory, has.memory, used.memory);
    need("ephemeral-storage", asked.storage, has.storage, used.storage);
    for (name, amount) in &asked.others {
        let of = |resources: &Resources| resources.others.get(name).copied().unwrap_or(0);
        need(name, *amount, of(has), of(used));
    }
    missing
}

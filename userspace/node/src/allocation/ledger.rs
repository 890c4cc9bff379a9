//! PURE. The pods that the node has admitted with what they have, and whether another or a larger one fits. The reasons and
//! messages are the kubelet's (lifecycle.PredicateAdmitHandler, KEP-1287).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use skep_api::fit::{self, Amounts, HostPort};

use super::grant::Grant;
use crate::rejection::{Rejection, reject};

/// What the node has for pods while its Node object is unknown.
#[derive(Debug, Clone, Default)]
pub struct Room {
    pub amounts: Amounts,
    pub pods: i64,
}

/// What one pod has.
#[derive(Debug, Clone)]
struct Claim {
    grant: Grant,
    amounts: Amounts,
    ports: Vec<HostPort>,
}

/// A wish for other resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resize {
    /// The pod has what its spec asks for.
    Settled,
    /// It has now.
    Granted,
    Waits(Deferral),
}

/// Why a resize waits: the condition PodResizePending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// `Deferred`, or `Infeasible` for what the node can never give.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug)]
pub struct Ledger {
    room: Room,
    /// By uid.
    claims: BTreeMap<String, Claim>,
}

impl Ledger {
    pub fn new(room: Room) -> Ledger {
        Ledger { room, claims: BTreeMap::new() }
    }

    /// Records a pod that is new to the node, unless it does not fit.
    pub fn admit(&mut self, uid: &str, pod: &Pod, node: Option<&Node>) -> Result<(), Rejection> {
        if self.claims.contains_key(uid) {
            return Ok(());
        }
        let claim = Claim::of(pod);
        if let Some(shortage) = self.shortage(uid, &claim.amounts, node) {
            return Err(reject(format!("OutOf{}", shortage.resource), shortage.message()));
        }
        if let (Some(node), Some(spec)) = (node, &pod.spec)
            && !fit::selects(spec, node)
        {
            return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
        }
        let taken =
            |port: &HostPort| self.claims.values().flat_map(|c| &c.ports).any(|p| fit::conflicts(p, port));
        if claim.ports.iter().any(taken) {
            return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
        }
        self.claims.insert(uid.to_owned(), claim);
        Ok(())
    }

    /// Records a pod that the node admitted before, with what it was given then.
    pub fn adopt(&mut self, uid: &str, pod: &Pod, grant: Option<Grant>) {
        let pod = grant.map_or_else(|| pod.clone(), |grant| grant.applied(pod));
        self.claims.entry(uid.to_owned()).or_insert_with(|| Claim::of(&pod));
    }

    /// Gives the pod what its spec asks for, if the node has it. Other reasons to refuse a pod do not count: it runs.
    pub fn resize(&mut self, uid: &str, pod: &Pod, node: Option<&Node>) -> Resize {
        let claim = Claim::of(pod);
        match self.claims.get(uid) {
            Some(present) if present.grant != claim.grant => {}
            _ => return Resize::Settled,
        }
        if let Some(shortage) = self.shortage(uid, &claim.amounts, node) {
            let (reason, message) = if shortage.requested > shortage.capacity {
                ("Infeasible", shortage.never())
            } else {
                ("Deferred", shortage.message())
            };
            return Resize::Waits(Deferral { reason, message });
        }
        self.claims.insert(uid.to_owned(), claim);
        Resize::Granted
    }

    pub fn grant(&self, uid: &str) -> Option<&Grant> {
        self.claims.get(uid).map(|claim| &claim.grant)
    }

    /// True if the pod was recorded.
    pub fn release(&mut self, uid: &str) -> bool {
        self.claims.remove(uid).is_some()
    }

    /// The first resource that is missing for a pod with these requests, in upstream's order.
    fn shortage(&self, uid: &str, requested: &Amounts, node: Option<&Node>) -> Option<Shortage> {
        let reported = node.filter(|node| node.status.as_ref().is_some_and(|s| s.allocatable.is_some()));
        let (capacity, pods) =
            reported.map_or_else(|| (self.room.amounts.clone(), self.room.pods), fit::allocatable);
        let others: Vec<&Claim> =
            self.claims.iter().filter(|(other, _)| *other != uid).map(|(_, claim)| claim).collect();
        let mut used = Amounts::default();
        others.iter().for_each(|claim| used.add(&claim.amounts));
        let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
        let mut needs = vec![
            ("pods", 1, count, pods),
            ("cpu", requested.cpu, used.cpu, capacity.cpu),
            ("memory", requested.memory, used.memory, capacity.memory),
            ("ephemeral-storage", requested.storage, used.storage, capacity.storage),
        ];
        for (name, amount) in &requested.others {
            let of = |amounts: &Amounts| amounts.others.get(name).copied();
            // Extended resources that the node does not have belong to the cluster.
            if of(&capacity).is_some() || !name.contains('/') {
                needs.push((name, *amount, of(&used).unwrap_or(0), of(&capacity).unwrap_or(0)));
            }
        }
        let missing = |need: &(&str, i64, i64, i64)| need.1 > 0 && need.1 > need.3.saturating_sub(need.2);
        needs.into_iter().find(missing).map(|(resource, requested, used, capacity)| Shortage {
            resource: resource.to_owned(),
            requested,
            used,
            capacity,
        })
    }
}

impl Claim {
    fn of(pod: &Pod) -> Claim {
        // What a status says of earlier allocations does not count here: these are the allocations.
        let spec = Pod { spec: pod.spec.clone(), ..Pod::default() };
        Claim { grant: Grant::wanted(pod), amounts: fit::requested(&spec), ports: fit::host_ports(pod) }
    }
}

struct Shortage {
    resource: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortage {
    fn message(&self) -> String {
        let Shortage { resource, requested, used, capacity } = self;
        format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }

    fn never(&self) -> String {
        let Shortage { resource, requested, capacity, .. } = self;
        format!("Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}")
    }
}

fn predicate(name: &'static str, why: &str) -> Rejection {
    reject(name, format!("Predicate {name} failed: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn of_cpu(cpu: &str) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    fn of_port(port: Value) -> Pod {
        pod(json!({"containers": [{"name": "c", "ports": [port]}]}))
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/gpu": "1"}},
        }))
        .expect("a node")
    }

    fn outcome(ledger: &mut Ledger, uid: &str, pod: &Pod) -> String {
        match ledger.admit(uid, pod, Some(&node())) {
            Ok(()) => String::new(),
            Err(rejection) => format!("{}: {}", rejection.reason, rejection.message),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_in_upstreams_words() {
        let mut ledger = Ledger::new(Room::default());
        assert_eq!(outcome(&mut ledger, "a", &of_cpu("1500m")), "");
        let gpu = |count: &str, name: &str| {
            pod(json!({"containers": [{"name": "c", "resources": {"requests": {name: count}}}]}))
        };
        for (pod, expected) in [
            (
                of_cpu("600m"),
                "OutOfcpu: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000",
            ),
            (
                gpu("2", "example.com/gpu"),
                "OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1",
            ),
            (
                gpu("2", "hugepages-2Mi"),
                "OutOfhugepages-2Mi: Node didn't have enough resource: hugepages-2Mi, requested: 2, used: 0, capacity: 0",
            ),
            (
                pod(json!({"nodeSelector": {"disk": "tape"}, "containers": [{"name": "c"}]})),
                "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ),
        ] {
            assert_eq!(outcome(&mut ledger, "b", &pod), expected);
        }
        assert_eq!(outcome(&mut ledger, "b", &gpu("9", "other.com/gpu")), "", "a resource of the cluster");
        assert_eq!(outcome(&mut ledger, "b", &of_cpu("9")), "", "it is recorded already");
        assert_eq!(outcome(&mut ledger, "c", &of_cpu("100m")), "");
        assert_eq!(
            outcome(&mut ledger, "d", &of_cpu("0")),
            "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
        );
        assert!(ledger.release("a") && !ledger.release("a"));
        assert_eq!(outcome(&mut ledger, "d", &of_cpu("1")), "");
    }

    #[test]
    fn two_pods_never_have_one_host_port() {
        let mut ledger = Ledger::new(Room::default());
        let taken = json!({"hostPort": 80, "containerPort": 1, "hostIP": "10.0.0.1"});
        assert_eq!(outcome(&mut ledger, "a", &of_port(taken)), "");
        for (port, fits) in [
            (json!({"hostPort": 80, "containerPort": 1}), false),
            (json!({"hostPort": 80, "containerPort": 1, "hostIP": "10.0.0.1", "protocol": "TCP"}), false),
            (json!({"hostPort": 80, "containerPort": 1, "hostIP": "10.0.0.2"}), true),
            (json!({"hostPort": 80, "containerPort": 1, "protocol": "UDP"}), true),
            (json!({"containerPort": 80}), true),
        ] {
            let found = outcome(&mut ledger, "b", &of_port(port.clone()));
            assert_eq!(found.is_empty(), fits, "{port}");
            assert!(fits || found.starts_with("NodePorts: Predicate NodePorts failed: "), "{found}");
            ledger.release("b");
        }
    }

    #[test]
    fn a_resize_is_granted_deferred_or_infeasible() {
        let mut ledger = Ledger::new(Room::default());
        let node = node();
        assert_eq!(ledger.admit("a", &of_cpu("1"), Some(&node)), Ok(()));
        ledger.adopt("b", &of_cpu("300m"), Some(Grant::wanted(&of_cpu("600m"))));
        assert_eq!(ledger.resize("a", &of_cpu("1"), Some(&node)), Resize::Settled);
        assert_eq!(ledger.resize("none", &of_cpu("1"), Some(&node)), Resize::Settled);
        let waits = |reason, message: &str| Resize::Waits(Deferral { reason, message: message.into() });
        assert_eq!(
            ledger.resize("a", &of_cpu("1500m"), Some(&node)),
            waits(
                "Deferred",
                "Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000"
            )
        );
        assert_eq!(
            ledger.resize("a", &of_cpu("3"), Some(&node)),
            waits("Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000")
        );
        assert_eq!(ledger.grant("a"), Some(&Grant::wanted(&of_cpu("1"))), "it keeps what it has");
        assert_eq!(ledger.resize("b", &of_cpu("300m"), Some(&node)), Resize::Granted);
        assert_eq!(ledger.resize("a", &of_cpu("1500m"), Some(&node)), Resize::Granted);
        assert_eq!(ledger.grant("a"), Some(&Grant::wanted(&of_cpu("1500m"))));
    }
}

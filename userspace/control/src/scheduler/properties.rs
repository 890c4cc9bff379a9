//! In any order of changes: no pod is bound where a filter refuses it, no node is overcommitted, no pod that fits
//! somewhere waits for ever, and the updated snapshot equals one built from scratch.
//! The oracle shares no code with the filters and works on plain numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::core::{Decision, Scheduler};
use super::snapshot::Snapshot;
use crate::cache::{Change, Object};
use crate::meta;

#[derive(Clone, Debug, PartialEq)]
struct NodeSpec {
    cpu: i64,
    max_pods: usize,
    zone: u8,
    cordoned: bool,
    tainted: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct PodRequest {
    cpu: i64,
    priority: i32,
    zone: Option<u8>,
    port: Option<u16>,
    tolerant: bool,
    /// Not on a node with another pod that is alone.
    alone: bool,
    /// Spread over zones with a skew of one.
    spread: bool,
}

#[derive(Clone, Debug)]
enum Op {
    PutNode(u8, NodeSpec),
    DeleteNode(u8),
    PutPod(u8, PodRequest),
    DeletePod(u8),
    /// The scheduler decides this many times; the server refuses the bindings whose bit is set.
    Decide(u8, u8),
    Wait(u16),
}

fn node_spec() -> impl Strategy<Value = NodeSpec> {
    (500..4000i64, 1..6usize, 0..3u8, prop::bool::weighted(0.1), prop::bool::weighted(0.2)).prop_map(
        |(cpu, max_pods, zone, cordoned, tainted)| NodeSpec { cpu, max_pods, zone, cordoned, tainted },
    )
}

fn request() -> impl Strategy<Value = PodRequest> {
    let zone = prop::option::weighted(0.2, 0..3u8);
    let port = prop::option::weighted(0.2, 80..82u16);
    let flags = (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (0..2000i64, 0..3i32, zone, port, flags).prop_map(|(cpu, priority, zone, port, flags)| {
        let (tolerant, alone, spread) = flags;
        PodRequest { cpu, priority, zone, port, tolerant, alone, spread }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..4u8, node_spec()).prop_map(|(n, p)| Op::PutNode(n, p)),
        1 => (0..4u8).prop_map(Op::DeleteNode),
        5 => (0..24u8, request()).prop_map(|(n, w)| Op::PutPod(n, w)),
        2 => (0..24u8).prop_map(Op::DeletePod),
        5 => (1..6u8, any::<u8>()).prop_map(|(n, refused)| Op::Decide(n, refused)),
        1 => (0..20_000u16).prop_map(Op::Wait),
    ]
}

fn node(number: u8, spec: &NodeSpec) -> Node {
    let name = format!("n{number}");
    let taints = if spec.tainted { json!([{"key": "t", "effect": "NoSchedule"}]) } else { json!([]) };
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": spec.zone.to_string()}},
        "spec": {"unschedulable": spec.cordoned, "taints": taints},
        "status": {"allocatable": {"cpu": format!("{}m", spec.cpu), "pods": spec.max_pods.to_string()}},
    }))
    .unwrap()
}

fn pod(number: u8, serial: u64, request: &PodRequest, node: Option<u8>) -> Arc<Pod> {
    let mut labels = BTreeMap::new();
    if request.alone {
        labels.insert("alone", "y");
    }
    if request.spread {
        labels.insert("spread", "y");
    }
    let selector = request.zone.map(|zone| json!({"zone": zone.to_string()})).unwrap_or(json!({}));
    let ports: Vec<_> = request.port.iter().map(|p| json!({"containerPort": p, "hostPort": p})).collect();
    let tolerations = if request.tolerant { json!([{"key": "t", "operator": "Exists"}]) } else { json!([]) };
    let mut spec = json!({
        "priority": request.priority, "nodeSelector": selector, "tolerations": tolerations,
        "containers": [{"name": "c", "ports": ports, "resources": {"requests": {"cpu": format!("{}m", request.cpu)}}}],
    });
    if request.alone {
        let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"alone": "y"}}});
        spec["affinity"] =
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    }
    if request.spread {
        spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "nodeAffinityPolicy": "Ignore",
            "labelSelector": {"matchLabels": {"spread": "y"}}}]);
    }
    if let Some(node) = node {
        spec["nodeName"] = json!(format!("n{node}"));
    }
    let metadata =
        json!({"name": format!("p{number}"), "namespace": "ns", "uid": serial.to_string(), "labels": labels});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

#[derive(Clone, Debug)]
struct Guest {
    request: PodRequest,
    node: Option<u8>,
    object: Arc<Pod>,
}

/// The server and its scheduler.
#[derive(Default)]
struct World {
    scheduler: Scheduler,
    nodes: BTreeMap<u8, (NodeSpec, Arc<Node>)>,
    pods: BTreeMap<u8, Guest>,
    serial: u64,
    ms: i64,
}

impl World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + self.ms).unwrap()
    }

    fn change(&mut self, old: Option<Object>, new: Option<Object>) {
        let now = self.now();
        self.scheduler.apply(&Change { old, new }, now);
    }

    fn put_node(&mut self, number: u8, spec: NodeSpec) {
        let object = Arc::new(node(number, &spec));
        let old = self.nodes.insert(number, (spec, object.clone()));
        self.change(old.map(|(_, old)| Object::Node(old)), Some(Object::Node(object)));
    }

    fn delete_node(&mut self, number: u8) {
        if let Some((_, old)) = self.nodes.remove(&number) {
            self.change(Some(Object::Node(old)), None);
            // Its pods are collected.
            let lost: Vec<u8> =
                self.pods.iter().filter(|(_, g)| g.node == Some(number)).map(|(k, _)| *k).collect();
            lost.into_iter().for_each(|pod| self.delete_pod(pod));
        }
    }

    fn put_pod(&mut self, number: u8, request: PodRequest) {
        if !self.pods.contains_key(&number) {
            self.serial += 1;
            let object = pod(number, self.serial, &request, None);
            self.pods.insert(number, Guest { request, node: None, object: object.clone() });
            self.change(None, Some(Object::Pod(object)));
        }
    }

    fn delete_pod(&mut self, number: u8) {
        if let Some(old) = self.pods.remove(&number) {
            self.change(Some(Object::Pod(old.object)), None);
        }
    }

    /// The oracle: whether the pod may go to the node now.
    fn may(&self, number: u8, on: u8) -> Result<(), String> {
        let (Some(guest), Some((spec, _))) = (self.pods.get(&number), self.nodes.get(&on)) else {
            return Err("not there".into());
        };
        let request = &guest.request;
        let there = || self.pods.values().filter(|other| other.node == Some(on));
        let zone_of = |node: Option<u8>| node.and_then(|n| self.nodes.get(&n)).map(|(p, _)| p.zone);
        let mut counts: BTreeMap<u8, i64> = self.nodes.values().map(|(spec, _)| (spec.zone, 0)).collect();
        for other in self.pods.values().filter(|other| other.request.spread) {
            if let Some(count) = zone_of(other.node).and_then(|zone| counts.get_mut(&zone)) {
                *count += 1;
            }
        }
        let least = counts.values().min().copied().unwrap_or(0);
        let rules = [
            ("cordon", !spec.cordoned),
            ("taint", !spec.tainted || request.tolerant),
            ("selector", request.zone.is_none_or(|zone| zone == spec.zone)),
            ("pods", there().count() < spec.max_pods),
            (
                "cpu",
                request.cpu == 0 || there().map(|o| o.request.cpu).sum::<i64>() + request.cpu <= spec.cpu,
            ),
            ("port", request.port.is_none() || there().all(|o| o.request.port != request.port)),
            ("alone", !request.alone || there().all(|o| !o.request.alone)),
            ("spread", !request.spread || counts[&spec.zone] + 1 - least <= 1),
        ];
        let broken: Vec<_> = rules.iter().filter(|(_, holds)| !holds).map(|(name, _)| *name).collect();
        if broken.is_empty() { Ok(()) } else { Err(broken.join(", ")) }
    }

    /// One decision and its writes; whether there was one.
    fn decide(&mut self, refused: bool) -> Result<bool, TestCaseError> {
        let now = self.now();
        let number = |pod: &Pod| meta::name(&pod.metadata)[1..].parse::<u8>().unwrap();
        match self.scheduler.next(now, self.serial) {
            None => return Ok(false),
            Some(Decision::Bind { pod: bound, node }) => {
                let (who, on) = (number(&bound), node[1..].parse::<u8>().unwrap());
                prop_assert_eq!(self.may(who, on), Ok(()), "p{} on n{}", who, on);
                if refused {
                    let key = crate::cache::Key::of(&bound.metadata);
                    self.scheduler.binding_failed(&key, meta::uid(&bound.metadata), now);
                } else if let Some(guest) = self.pods.get_mut(&who) {
                    guest.node = Some(on);
                    let uid: u64 = meta::uid(&bound.metadata).parse().unwrap();
                    let new = pod(who, uid, &guest.request, Some(on));
                    let old = std::mem::replace(&mut guest.object, new.clone());
                    self.change(Some(Object::Pod(old)), Some(Object::Pod(new)));
                }
            }
            Some(Decision::Refuse { plan: Some(plan), pod, .. }) => {
                let great = self.pods[&number(&pod)].request.priority;
                for victim in &plan.victims {
                    let victim = number(victim);
                    prop_assert!(
                        self.pods[&victim].request.priority < great,
                        "only pods of lower priority are preempted"
                    );
                    self.delete_pod(victim);
                }
            }
            Some(Decision::Refuse { .. }) => {}
            Some(Decision::PrepareVolumes { .. }) => prop_assert!(false, "no pod has a claim"),
        }
        Ok(true)
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::PutNode(number, spec) => self.put_node(number, spec),
            Op::DeleteNode(number) => self.delete_node(number),
            Op::PutPod(number, request) => self.put_pod(number, request),
            Op::DeletePod(number) => self.delete_pod(number),
            Op::Wait(ms) => self.ms += i64::from(ms),
            Op::Decide(times, refused) => {
                for turn in 0..times {
                    self.decide(refused >> turn & 1 == 1)?;
                }
            }
        }
        Ok(())
    }

    /// Lets time pass until nothing is left to do, but not until unschedulable pods are tried without a change.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let end = self.ms + 250_000;
        loop {
            for _ in 0..2000 {
                if !self.decide(false)? {
                    break;
                }
            }
            let due = self.scheduler.next_due().map(|due| due.as_millisecond() - 1_000_000);
            match due.filter(|due| *due <= end) {
                Some(due) => self.ms = self.ms.max(due),
                None => return Ok(()),
            }
        }
    }
}

proptest! {
    #[test]
    fn decisions_keep_every_rule_and_nothing_that_fits_waits(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::default();
        for op in ops {
            world.step(op)?;
        }
        world.settle()?;
        for (number, guest) in &world.pods {
            for node in world.nodes.keys().filter(|_| guest.node.is_none()) {
                prop_assert!(world.may(*number, *node).is_err(), "p{} waits, though n{} can take it", number, node);
            }
        }
        let mut rebuilt = Snapshot::default();
        for (_, object) in world.nodes.values() {
            rebuilt.apply(&Change { old: None, new: Some(Object::Node(object.clone())) });
        }
        for guest in world.pods.values().filter(|guest| guest.node.is_some()) {
            rebuilt.apply(&Change { old: None, new: Some(Object::Pod(guest.object.clone())) });
        }
        prop_assert_eq!(format!("{:?}", rebuilt.nodes), format!("{:?}", world.scheduler.snapshot.nodes));
        prop_assert_eq!(rebuilt.classes.counts(), world.scheduler.snapshot.classes.counts());
    }
}

//! Resource requests of pods and allocatable resources of nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts: cpu in thousandths, memory and storage in bytes, others in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
    pub others: BTreeMap<String, i64>,
}

/// Assumed requests of a container without requests, for scores; as upstream.
const DEFAULT_CPU_MILLIS: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// The kubelet's default.
const DEFAULT_MAX_PODS: i64 = 110;

impl Amounts {
    fn of(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
        let mut resources = Amounts::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(quantity) = quantity.0.parse::<crate::quantity::Quantity>() else { continue };
            let whole = i64::try_from(quantity.value()).unwrap_or(i64::MAX);
            match name.as_str() {
                "cpu" => resources.cpu = i64::try_from(quantity.millis()).unwrap_or(i64::MAX),
                "memory" => resources.memory = whole,
                "ephemeral-storage" => resources.storage = whole,
                "pods" => {}
                _ => {
                    resources.others.insert(name.clone(), whole);
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Amounts) {
        self.each(other, i64::saturating_add);
    }

    pub fn subtract(&mut self, other: &Amounts) {
        self.each(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Amounts) {
        self.each(other, i64::max);
    }

    fn each(&mut self, other: &Amounts, with: fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.storage = with(self.storage, other.storage);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
        self.others.retain(|_, amount| *amount != 0);
    }
}

/// The resources that a node offers to pods, and its maximum number of pods.
pub fn allocatable(node: &Node) -> (Amounts, i64) {
    let list = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let pods = list.and_then(|list| list.get("pods")).and_then(|quantity| quantity.0.parse().ok());
    (Amounts::of(list), pods.unwrap_or(DEFAULT_MAX_PODS))
}

/// The highest request of a pod at any time of its life.
pub fn requested(pod: &Pod) -> Amounts {
    total(pod, |container| request(container.resources.as_ref()))
}

/// The same for scores: containers without requests count with the defaults.
pub fn weight(pod: &Pod) -> Amounts {
    total(pod, |container| {
        let mut request = request(container.resources.as_ref());
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let has = |name| requests.is_some_and(|list| list.contains_key(name));
        if !has("cpu") {
            request.cpu = DEFAULT_CPU_MILLIS;
        }
        if !has("memory") {
            request.memory = DEFAULT_MEMORY_BYTES;
        }
        request
    })
}

/// A container that is being resized counts with the greater of its request and its present allocation (KEP-1287).
fn total(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::default() };
    let statuses = pod.status.iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        status.container_statuses.iter().flatten().chain(init)
    });
    let mut given: BTreeMap<&str, Amounts> = BTreeMap::new();
    for status in statuses {
        let mut resources = Amounts::of(status.allocated_resources.as_ref());
        resources.raise_to(&request(status.resources.as_ref()));
        given.insert(&status.name, resources);
    }
    sum(spec, |container| {
        let mut resources = of(container);
        if let Some(given) = given.get(container.name.as_str()) {
            resources.raise_to(given);
        }
        resources
    })
}

fn request(resources: Option<&ResourceRequirements>) -> Amounts {
    Amounts::of(resources.and_then(|r| r.requests.as_ref()))
}

/// Containers run together. Before them init containers run one by one, together with the sidecars started so far
/// (KEP-753).
fn sum(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut running = Amounts::default();
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    let mut sidecars = Amounts::default();
    let mut highest = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        let mut moment = sidecars.clone();
        moment.add(&own);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = moment.clone();
        }
        highest.raise_to(&moment);
    }
    running.add(&sidecars);
    running.raise_to(&highest);
    // A pod's own request replaces that of its containers (KEP-2837).
    let own = Amounts::of(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    for (own, sum) in [(own.cpu, &mut running.cpu), (own.memory, &mut running.memory)] {
        if own > 0 {
            *sum = own;
        }
    }
    running.add(&Amounts::of(spec.overhead.as_ref()));
    running
}

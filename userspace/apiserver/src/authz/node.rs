//! The node authorizer: a node may read secrets, config maps, claims and accounts that its pods refer to, those of Ingresses
//! and Gateways that it may serve, and its own objects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use skep_api::local_path::NODE_LABEL;

use super::attributes::{Attributes, Decision};
use super::gateway::GatewayGraph;
use super::ingress::IngressGraph;
use super::rbac::RbacRules;
use super::references::{Reference, ReferenceKind};

const USER_PREFIX: &str = "system:node:";
pub(crate) const GROUP: &str = "system:nodes";
const LEASES: &str = "kube-node-lease";
/// What answers challenges of ACME, which each node's gateway gives to every client that asks.
const CHALLENGES: (&str, &str) = ("kube-system", "skep-acme-challenges");

/// The node's name if the user is a node.
pub(crate) fn node_name<'a>(user: &'a str, groups: &[String]) -> Option<&'a str> {
    let name = user.strip_prefix(USER_PREFIX).filter(|name| !name.is_empty())?;
    groups.iter().any(|group| group == GROUP).then_some(name)
}

/// What a pod refers to; shared by pods that refer to the same.
type References = Arc<BTreeSet<Reference>>;

/// The objects that the pods of each node refer to, and those that Ingresses and Gateways do.
#[derive(Debug, Default)]
pub(super) struct NodeGraph {
    /// By namespace and name: the node and the references of a pod.
    pods: HashMap<(String, String), (String, References)>,
    /// Each set of references in `pods`, once.
    sets: HashSet<References>,
    /// By node: the number of pods that refer to each object.
    nodes: HashMap<String, HashMap<Reference, usize>>,
    pub(super) ingresses: IngressGraph,
    pub(super) gateways: GatewayGraph,
}

impl NodeGraph {
    /// A pod without a node gives no rights.
    pub(super) fn apply_pod(&mut self, pod: &Value) {
        let text = |pointer| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let node = text("/spec/nodeName");
        if node.is_empty() {
            return self.delete_pod(namespace, name);
        }
        let references = references(pod, namespace, name);
        let id = (namespace.to_owned(), name.to_owned());
        if self.pods.get(&id).is_some_and(|(old_node, old)| old_node == node && **old == references) {
            return;
        }
        self.delete_pod(namespace, name);
        let counts = self.nodes.entry(node.to_owned()).or_default();
        for reference in &references {
            *counts.entry(reference.clone()).or_default() += 1;
        }
        let references = self.shared(references);
        self.pods.insert(id, (node.to_owned(), references));
    }

    fn shared(&mut self, references: BTreeSet<Reference>) -> References {
        if let Some(shared) = self.sets.get(&references) {
            return shared.clone();
        }
        let references = Arc::new(references);
        self.sets.insert(references.clone());
        references
    }

    pub(super) fn delete_pod(&mut self, namespace: &str, name: &str) {
        let Some((node, references)) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        // Besides this one, `sets` has it.
        if Arc::strong_count(&references) == 2 {
            self.sets.remove(&references);
        }
        let Some(counts) = self.nodes.get_mut(&node) else { return };
        for reference in references.iter() {
            match counts.get_mut(reference) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    counts.remove(reference);
                }
            }
        }
        if counts.is_empty() {
            self.nodes.remove(&node);
        }
    }

    pub(super) fn authorize(&self, request: &Attributes<'_>, rules: &RbacRules) -> Decision {
        let Some(node) = node_name(request.user, request.groups) else {
            return Decision::NoOpinion(String::new());
        };
        let no = |why: &str| Decision::NoOpinion(why.to_owned());
        let yes = || Decision::Allow(String::new());
        let read = ["get", "list", "watch"].contains(&request.verb);
        if !request.path.is_empty() {
            return no("");
        }
        match (request.group, request.resource, request.subresource) {
            ("", "secrets", "") if read => self.refers(node, ReferenceKind::Secret, request),
            ("", "configmaps", "") if read => self.refers(node, ReferenceKind::ConfigMap, request),
            ("", "secrets" | "configmaps", _) => no("can only read resources of this type"),
            ("", "persistentvolumeclaims", "") if request.verb == "get" => {
                self.refers(node, ReferenceKind::Claim, request)
            }
            ("", "persistentvolumeclaims", "status") if ["update", "patch"].contains(&request.verb) => {
                self.refers(node, ReferenceKind::Claim, request)
            }
            ("", "persistentvolumeclaims", _) => no("can only get individual resources of this type"),
            ("", "persistentvolumes", "") if request.verb != "get" => own_volumes(node, request),
            ("", "serviceaccounts", "") if read => self.refers(node, ReferenceKind::ServiceAccount, request),
            ("", "serviceaccounts", "token") if request.verb == "create" => {
                self.refers(node, ReferenceKind::ServiceAccount, request)
            }
            ("", "serviceaccounts", _) => no("can only create tokens for individual service accounts"),
            ("coordination.k8s.io", "leases", _) => own_lease(node, request),
            ("storage.k8s.io", "csinodes", "") if request.verb == "create" || request.name == node => yes(),
            ("storage.k8s.io", "csinodes", _) => {
                no("can only access CSINode with the same name as the requesting node")
            }
            (skep_tunnel::GROUP, skep_tunnel::RESOURCE, "") => own_tunnel(node, request),
            ("", "nodes", subresource) => own_node(node, subresource, request),
            ("", "pods", subresource) => self.own_pods(node, subresource, request),
            _ => match rules.role("ClusterRole", "", "system:node") {
                Some(rules) if rules.iter().any(|rule| rule.allows(request)) => yes(),
                _ => no(""),
            },
        }
    }

    /// NodeRestriction looks at the object of a write.
    fn own_pods(&self, node: &str, subresource: &str, request: &Attributes<'_>) -> Decision {
        match (subresource, request.verb) {
            ("", "get") => {
                let id = (request.namespace.to_owned(), request.name.to_owned());
                match self.pods.get(&id) {
                    Some((of, _)) if of == node => Decision::Allow(String::new()),
                    _ => Decision::NoOpinion(unrelated(node)),
                }
            }
            ("", "list" | "watch") if selects_node(request.field_selector, node) => {
                Decision::Allow(String::new())
            }
            ("", "list" | "watch") => {
                let why = "can only list/watch pods with spec.nodeName field selector";
                Decision::NoOpinion(why.to_owned())
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Decision::Allow(String::new())
            }
            _ => Decision::NoOpinion(String::new()),
        }
    }

    fn refers(&self, node: &str, kind: ReferenceKind, request: &Attributes<'_>) -> Decision {
        if request.name.is_empty() || request.namespace.is_empty() {
            return Decision::NoOpinion("can only read namespaced object of this type".to_owned());
        }
        let reference = (kind, request.namespace.to_owned(), request.name.to_owned());
        if self.nodes.get(node).is_some_and(|counts| counts.contains_key(&reference)) {
            return Decision::Allow(String::new());
        }
        let (namespace, name) = (request.namespace, request.name);
        if kind == ReferenceKind::ConfigMap && (namespace, name) == CHALLENGES {
            return Decision::Allow(String::new());
        }
        if self.ingresses.names(&reference) || self.gateways.names(&reference) {
            return Decision::Allow(String::new());
        }
        Decision::NoOpinion(unrelated(node))
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

/// Whether a field selector admits only the pods of a node.
fn selects_node(selector: &str, node: &str) -> bool {
    let mut terms = selector.split(',').filter_map(|term| term.trim().strip_prefix("spec.nodeName="));
    terms.any(|value| value.strip_prefix('=').unwrap_or(value) == node)
}

/// A node may read its own Node before that exists.
fn own_node(node: &str, subresource: &str, request: &Attributes<'_>) -> Decision {
    match (subresource, request.verb) {
        ("", "get" | "list" | "watch") if request.name == node => Decision::Allow(String::new()),
        ("", "get" | "list" | "watch") if request.name.is_empty() => {
            let why = format!("node '{node}' cannot read all nodes, only its own Node object");
            Decision::NoOpinion(why)
        }
        ("", "get" | "list" | "watch") => {
            let why = format!("node '{node}' cannot read '{}', only its own Node object", request.name);
            Decision::NoOpinion(why)
        }
        // A create request does not name the object.
        ("", "create") => Decision::Allow(String::new()),
        ("" | "status", "update" | "patch") if request.name == node => Decision::Allow(String::new()),
        ("" | "status", "update" | "patch") => {
            Decision::NoOpinion("node is not allowed to modify other nodes".to_owned())
        }
        _ => Decision::NoOpinion(String::new()),
    }
}

/// A node follows the volumes that are folders of its own. NodeRestriction looks at what it writes.
fn own_volumes(node: &str, request: &Attributes<'_>) -> Decision {
    match request.verb {
        "list" | "watch" if selects_volumes(request.label_selector, node) => Decision::Allow(String::new()),
        "list" | "watch" => {
            let why = format!("can only list/watch persistentvolumes with {NODE_LABEL} label selector");
            Decision::NoOpinion(why)
        }
        "patch" if !request.name.is_empty() => Decision::Allow(String::new()),
        _ => Decision::NoOpinion(String::new()),
    }
}

/// Whether a label selector is one equality that admits only the volumes of a node.
fn selects_volumes(selector: &str, node: &str) -> bool {
    let value = selector.strip_prefix(NODE_LABEL).and_then(|rest| rest.strip_prefix('='));
    value.is_some_and(|value| value.strip_prefix('=').unwrap_or(value) == node)
}

fn own_tunnel(node: &str, request: &Attributes<'_>) -> Decision {
    if request.verb == "create" && request.name == node {
        return Decision::Allow(String::new());
    }
    Decision::NoOpinion(format!("node '{node}' can only open its own tunnel"))
}

fn own_lease(node: &str, request: &Attributes<'_>) -> Decision {
    if request.namespace != LEASES {
        return Decision::NoOpinion(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // A create request does not name the object.
    let own = request.verb == "create" || request.name == node;
    if own && ["get", "create", "update", "patch", "delete"].contains(&request.verb) {
        return Decision::Allow(String::new());
    }
    Decision::NoOpinion("can only access node lease with the same name as the requesting node".to_owned())
}

/// The objects that a pod names and its node must read.
fn references(pod: &Value, namespace: &str, name: &str) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut add = |kind: ReferenceKind, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
            found.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    let account = pod.pointer("/spec/serviceAccountName");
    add(ReferenceKind::ServiceAccount, Some(account.unwrap_or(&Value::from("default"))));
    for secret in list(pod, "/spec/imagePullSecrets") {
        add(ReferenceKind::Secret, secret.get("name"));
    }
    for containers in ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"] {
        for container in list(pod, containers) {
            for env in list(container, "/env") {
                add(ReferenceKind::Secret, env.pointer("/valueFrom/secretKeyRef/name"));
                add(ReferenceKind::ConfigMap, env.pointer("/valueFrom/configMapKeyRef/name"));
            }
            for from in list(container, "/envFrom") {
                add(ReferenceKind::Secret, from.pointer("/secretRef/name"));
                add(ReferenceKind::ConfigMap, from.pointer("/configMapRef/name"));
            }
        }
    }
    for volume in list(pod, "/spec/volumes") {
        add(ReferenceKind::Secret, volume.pointer("/secret/secretName"));
        add(ReferenceKind::ConfigMap, volume.pointer("/configMap/name"));
        add(ReferenceKind::Claim, volume.pointer("/persistentVolumeClaim/claimName"));
        if volume.get("ephemeral").is_some()
            && let Some(of) = volume.get("name").and_then(Value::as_str)
        {
            add(ReferenceKind::Claim, Some(&Value::from(format!("{name}-{of}"))));
        }
        for source in list(volume, "/projected/sources") {
            add(ReferenceKind::Secret, source.pointer("/secret/name"));
            add(ReferenceKind::ConfigMap, source.pointer("/configMap/name"));
        }
        for (driver, field) in
            [("csi", "nodePublishSecretRef"), ("cephfs", "secretRef"), ("rbd", "secretRef")]
        {
            add(ReferenceKind::Secret, volume.pointer(&format!("/{driver}/{field}/name")));
        }
    }
    found
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rights_stay_until_the_last_pod_that_gives_them_and_leave_nothing_behind() {
        let pod = |name: &str, secret: &str| {
            json!({
                "kind": "Pod", "metadata": {"name": name, "namespace": "a"},
                "spec": {"nodeName": "n", "imagePullSecrets": [{"name": secret}]},
            })
        };
        let mut graph = NodeGraph::default();
        [("x", "s"), ("y", "s"), ("z", "t")]
            .iter()
            .for_each(|(name, secret)| graph.apply_pod(&pod(name, secret)));
        assert_eq!(graph.sets.len(), 2, "equal sets of references are one");
        let groups = [GROUP.to_owned()];
        let reads = |graph: &NodeGraph, name: &str| {
            let (user, verb, resource) = ("system:node:n", "get", "secrets");
            let request = Attributes {
                user,
                groups: &groups,
                verb,
                resource,
                namespace: "a",
                name,
                ..Attributes::default()
            };
            graph.authorize(&request, &RbacRules::default()).allowed()
        };
        graph.delete_pod("a", "x");
        assert!(reads(&graph, "s") && reads(&graph, "t"));
        graph.apply_pod(&pod("y", "t"));
        assert!(!reads(&graph, "s") && reads(&graph, "t"));
        graph.delete_pod("a", "y");
        graph.delete_pod("a", "z");
        assert!(!reads(&graph, "t"));
        assert!(graph.sets.is_empty() && graph.nodes.is_empty() && graph.pods.is_empty());
    }
}

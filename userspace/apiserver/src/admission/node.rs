//! NodeRestriction: a node changes only itself, its lease and the pods on it, and labels itself only as nodes do.

use std::collections::BTreeSet;

use serde_json::Value;
use skep_api::kinds::object_reference;
use skep_api::local_path::{FINALIZER, NODE_LABEL, PROVISIONED_BY, PROVISIONER};
use skep_api::{Status, meta};

use super::request::{Operation, Request};
use crate::authz::{Attributes, node_name};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own domains that a kubelet sets.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const ONLY_STATUS: [&str; 4] = ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"];

/// The requesting node; `None` for other users, who are not restricted here.
fn node<'a>(request: &Request<'a>) -> Option<&'a str> {
    node_name(&request.call.identity.user, &request.call.identity.groups)
}

pub(super) fn admit(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = node(request) else { return Ok(()) };
    check(request, node, object).map_err(|why| request.forbidden(object, why))
}

pub(super) fn delete(request: &Request<'_>, old: &Value) -> Result<(), Status> {
    let Some(node) = node(request) else { return Ok(()) };
    let why = match (&*request.kind().group, &*request.kind().plural) {
        ("", "pods") if old["spec"]["nodeName"] != node => {
            format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")
        }
        ("", "nodes") if meta::name(old) != node => not_itself(node, meta::name(old)),
        _ => return Ok(()),
    };
    Err(request.forbidden(old, why))
}

/// A node may evict its own pods, and create tokens that are bound to them.
pub(super) async fn part(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = node(request) else { return Ok(()) };
    let pod = |name: &str| request.get("", "v1", "pods", request.namespace(), name).map(|pod| pod.value());
    let why = match (&*request.kind().plural, request.subresource()) {
        ("pods", "eviction") => {
            let on_it = pod(&request.call.target.name).is_some_and(|pod| pod["spec"]["nodeName"] == node);
            (!on_it).then(|| format!("node {node} can only evict pods with spec.nodeName set to itself"))
        }
        ("serviceaccounts", "token") => {
            let reference = &object["spec"]["boundObjectRef"];
            let pod = pod(reference["name"].as_str().unwrap_or_default());
            match check_token(node, reference, pod.as_ref()) {
                Ok(pod) => return check_audience(request, object, pod).await,
                Err(why) => Some(why),
            }
        }
        _ => None,
    };
    why.map_or(Ok(()), |why| Err(request.forbidden(object, why)))
}

/// A node gets tokens for the audiences that volumes of the pod ask for, or that it has a right to.
async fn check_audience(request: &Request<'_>, object: &Value, pod: &Value) -> Result<(), Status> {
    let audiences = object["spec"]["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let audience = match audiences {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err(request.forbidden(object, "node may only request 0 or 1 audiences")),
    };
    let identity = &request.call.identity;
    let right = Attributes {
        verb: "request-serviceaccounts-token-audience",
        resource: audience,
        namespace: request.namespace(),
        name: &request.call.target.name,
        ..Attributes::of(identity)
    };
    let driver =
        |name: &str| request.get("storage.k8s.io", "v1", "csidrivers", "", name).map(|it| it.value());
    let authorizer = request.admission.storage.caches.authorizer();
    if asks_for(pod, audience, driver) || !audience.is_empty() && authorizer.allows(&right).await {
        return Ok(());
    }
    Err(request.forbidden(object, format!("audience \"{audience}\" not found in pod spec volume")))
}

/// Whether a volume of the pod, or the driver of one, asks for tokens of the audience; the empty one is this server's.
fn asks_for(pod: &Value, audience: &str, driver: impl Fn(&str) -> Option<Value>) -> bool {
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is = |asked: &Value| asked["audience"].as_str().unwrap_or_default() == audience;
    each(&pod["spec"]["volumes"]).iter().any(|volume| {
        let mut sources = each(&volume["projected"]["sources"]).into_iter();
        let projected = sources
            .any(|source| source["serviceAccountToken"].is_object() && is(&source["serviceAccountToken"]));
        let driver = volume["csi"]["driver"].as_str().and_then(&driver);
        projected || driver.is_some_and(|driver| each(&driver["spec"]["tokenRequests"]).iter().any(is))
    })
}

fn check_token<'p>(node: &str, reference: &Value, pod: Option<&'p Value>) -> Result<&'p Value, String> {
    let Some(pod) = pod.filter(|_| reference["kind"] == "Pod") else {
        return Err("node requested token not bound to a pod".to_owned());
    };
    match reference["uid"].as_str() {
        None | Some("") => Err("node requested token with a pod binding without a uid".to_owned()),
        Some(uid) if uid != meta::uid(pod) => Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )),
        Some(_) if pod["spec"]["nodeName"] != node => {
            Err("node requested token bound to a pod scheduled on a different node".to_owned())
        }
        Some(_) => Ok(pod),
    }
}

fn not_itself(node: &str, other: &str) -> String {
    format!("node \"{node}\" is not allowed to modify node \"{other}\"")
}

fn check(request: &Request<'_>, node: &str, object: &Value) -> Result<(), String> {
    match (&*request.kind().group, &*request.kind().plural, request.subresource(), request.old) {
        ("", "pods", "", None) => check_mirror(request, node, object),
        ("", "pods", "", Some(_)) => Err(format!(
            "unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"
        )),
        ("", "pods", "status", Some(old)) => check_pod_status(node, object, old),
        ("", "pods", part, _) => {
            Err(format!("unexpected pod subresource \"{part}\", only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _, old) => check_node(node, object, old),
        ("", "persistentvolumeclaims", "status", Some(old)) => check_claim_status(node, object, old),
        ("", "persistentvolumeclaims", ..) => Err("may only update PVC status".to_owned()),
        ("", "persistentvolumes", "", Some(old)) => volume_problem(node, object, old).map_or(Ok(()), Err),
        ("", "persistentvolumes", ..) => Err(format!("node \"{node}\" may only update persistentvolumes")),
        ("coordination.k8s.io", "leases", ..) => check_lease(request, node, object),
        ("storage.k8s.io", "csinodes", ..) if meta::name(object) != node => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_mirror(request: &Request<'_>, node: &str, pod: &Value) -> Result<(), String> {
    if !pod["metadata"]["annotations"][MIRROR].is_string() {
        return Err(format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_itself =
        |owner: &Value| owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
    match owners {
        [owner] if !of_itself(owner) => {
            return Err(format!(
                "node \"{node}\" can only create pods with an owner reference set to itself"
            ));
        }
        [owner] if owner["controller"] != true => {
            return Err(format!(
                "node \"{node}\" can only create pods with a controller owner reference set to itself"
            ));
        }
        [owner] if owner["blockOwnerDeletion"] == true => {
            return Err(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
        }
        [owner] => {
            let present =
                request.get("", "v1", "nodes", "", node).map(|node| node.value()).unwrap_or_default();
            if owner["uid"] != meta::uid(&present) {
                let (wanted, uid) = (owner["uid"].as_str().unwrap_or_default(), meta::uid(&present));
                return Err(format!("node {node} UID mismatch: expected {wanted} got {uid}"));
            }
        }
        [] => {
            return Err(format!(
                "node \"{node}\" can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return Err(format!(
                "node \"{node}\" can only create pods with a single owner reference set to itself"
            ));
        }
    }
    match object_reference(pod) {
        Some(what) => Err(format!("node \"{node}\" can not create pods that reference {what}")),
        None => Ok(()),
    }
}

fn check_pod_status(node: &str, pod: &Value, old: &Value) -> Result<(), String> {
    if old["spec"]["nodeName"] != node {
        return Err(format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if changed(&pod["metadata"]["labels"], &old["metadata"]["labels"]).next().is_some() {
        return Err(format!("node \"{node}\" cannot update labels through pod status"));
    }
    if pod["status"]["resourceClaimStatuses"] != old["status"]["resourceClaimStatuses"] {
        return Err(format!("node \"{node}\" cannot update resource claim statues"));
    }
    Ok(())
}

/// The keys whose values differ between two maps.
fn changed<'a>(new: &'a Value, old: &'a Value) -> impl Iterator<Item = &'a str> {
    let keys = |map: &'a Value| map.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let all: BTreeSet<&str> = keys(new).chain(keys(old)).collect();
    all.into_iter().filter(|key| new.get(*key) != old.get(*key))
}

fn check_node(node: &str, object: &Value, old: Option<&Value>) -> Result<(), String> {
    if meta::name(object) != node {
        return Err(not_itself(node, meta::name(object)));
    }
    let source = &object["spec"]["configSource"];
    let nothing = Value::Null;
    let before = old.map_or(&nothing, |old| &old["metadata"]["labels"]);
    let forbidden = changed(&object["metadata"]["labels"], before).filter(|key| !may_set(key));
    let forbidden = forbidden.collect::<Vec<_>>().join(", ");
    let Some(old) = old else {
        if !source.is_null() {
            return Err(format!("node \"{node}\" is not allowed to create pods with a non-nil configSource"));
        }
        if !forbidden.is_empty() {
            return Err(format!("node \"{node}\" is not allowed to set the following labels: {forbidden}"));
        }
        return Ok(());
    };
    if !source.is_null() && *source != old["spec"]["configSource"] {
        return Err(format!(
            "node \"{node}\" is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    let some = |list: &Value| list.as_array().cloned().unwrap_or_default();
    if some(&object["spec"]["taints"]) != some(&old["spec"]["taints"]) {
        return Err(format!("node \"{node}\" is not allowed to modify taints"));
    }
    if some(&object["metadata"]["ownerReferences"]) != some(&old["metadata"]["ownerReferences"]) {
        return Err(format!("node \"{node}\" is not allowed to modify ownerReferences"));
    }
    if !forbidden.is_empty() {
        return Err(format!("is not allowed to modify labels: {forbidden}"));
    }
    Ok(())
}

fn may_set(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let within = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|head| head.ends_with('.'))
    };
    if within(RESTRICTED) {
        return false;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    !of_kubernetes || OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|own| within(own))
}

/// A node says whether the folder of one of its volumes exists: by a finalizer, and by nothing else.
fn volume_problem(node: &str, volume: &Value, old: &Value) -> Option<String> {
    let is_own = old["metadata"]["labels"][NODE_LABEL] == node
        && old["metadata"]["annotations"][PROVISIONED_BY] == PROVISIONER;
    if !is_own {
        return Some(format!("node \"{node}\" can only update volumes that are folders of its own"));
    }
    let rest = |volume: &Value| {
        let mut rest = volume.clone();
        if let Some(metadata) = rest["metadata"].as_object_mut() {
            ["resourceVersion", "managedFields"].iter().for_each(|field| drop(metadata.remove(*field)));
            let finalizers = metadata.remove("finalizers").unwrap_or_default();
            let others: Vec<Value> = finalizers
                .as_array()
                .into_iter()
                .flatten()
                .filter(|name| *name != FINALIZER)
                .cloned()
                .collect();
            metadata.insert("finalizers".to_owned(), others.into());
        }
        rest
    };
    if rest(volume) == rest(old) {
        return None;
    }
    Some(format!("node \"{node}\" is not allowed to update fields other than the finalizer {FINALIZER}"))
}

fn check_claim_status(node: &str, claim: &Value, old: &Value) -> Result<(), String> {
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        for (part, fields) in
            [("status", &ONLY_STATUS[..]), ("metadata", &["resourceVersion", "managedFields"])]
        {
            if let Some(part) = rest[part].as_object_mut() {
                fields.iter().for_each(|field| drop(part.remove(*field)));
            }
        }
        rest
    };
    if rest(claim) == rest(old) {
        return Ok(());
    }
    Err(format!(
        "node \"{node}\" is not allowed to update fields other than status.quantity and status.conditions"
    ))
}

fn check_lease(request: &Request<'_>, node: &str, lease: &Value) -> Result<(), String> {
    if request.namespace() != LEASES {
        return Err(format!("can only access leases in the \"{LEASES}\" system namespace"));
    }
    if request.operation == Operation::Create && meta::name(lease) != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_label_themselves_only_as_nodes_do() {
        for (label, wanted) in [
            ("app", true),
            ("example.com/x", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/x", true),
            ("a.kubelet.kubernetes.io/x", true),
            ("kubernetes.io/x", false),
            ("a.k8s.io/x", false),
            ("node-restriction.kubernetes.io/x", false),
            ("a.node-restriction.kubernetes.io/x", false),
            ("notkubernetes.io/x", true),
        ] {
            assert_eq!(may_set(label), wanted, "{label}");
        }
    }

    #[test]
    fn a_node_gets_tokens_for_audiences_of_volumes() {
        let token = |audience: Value| json!({"projected": {"sources": [{"serviceAccountToken": audience}]}});
        let volumes = json!([token(json!({"audience": "vault"})), {"csi": {"driver": "d"}}]);
        let pod = json!({"spec": {"volumes": volumes}});
        let driver =
            |name: &str| (name == "d").then(|| json!({"spec": {"tokenRequests": [{"audience": "csi"}]}}));
        for (audience, wanted) in [("vault", true), ("csi", true), ("other", false), ("", false)] {
            assert_eq!(asks_for(&pod, audience, driver), wanted, "{audience}");
        }
        let own = json!({"spec": {"volumes": [token(json!({}))]}});
        assert!(asks_for(&own, "", driver) && !asks_for(&own, "vault", driver));
    }

    #[test]
    fn a_node_changes_only_itself_and_not_its_taints() {
        let node = |name: &str, taints: Value, labels: Value| json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        let old = node("n", json!([]), json!({"a": "b"}));
        let check = |new: &Value| check_node("n", new, Some(&old));
        assert_eq!(check(&node("n", Value::Null, json!({"a": "c"}))), Ok(()));
        assert_eq!(check(&node("m", json!([]), json!({}))), Err(not_itself("n", "m")));
        assert_eq!(
            check(&node("n", json!([{"key": "x"}]), json!({"a": "b"}))).unwrap_err(),
            "node \"n\" is not allowed to modify taints"
        );
        assert_eq!(
            check(&node("n", json!([]), json!({"a": "b", "kubernetes.io/x": "1"}))).unwrap_err(),
            "is not allowed to modify labels: kubernetes.io/x"
        );
    }

    #[test]
    fn pods_and_claims_change_only_in_their_status() {
        let pod = |labels: Value| json!({"metadata": {"labels": labels}, "spec": {"nodeName": "n"}});
        assert_eq!(check_pod_status("n", &pod(Value::Null), &pod(json!({}))), Ok(()));
        assert!(check_pod_status("m", &pod(json!({})), &pod(json!({}))).is_err());
        assert!(check_pod_status("n", &pod(json!({"a": "b"})), &pod(json!({}))).is_err());
        let claim =
            |size: &str, phase: &str| json!({"metadata": {}, "status": {"capacity": size, "phase": phase}});
        assert_eq!(check_claim_status("n", &claim("2", "Bound"), &claim("1", "Bound")), Ok(()));
        assert!(check_claim_status("n", &claim("1", "Lost"), &claim("1", "Bound")).is_err());
    }

    #[test]
    fn a_node_changes_only_the_finalizer_of_its_own_volumes() {
        let volume = |node: &str, finalizers: &[&str], path: &str| {
            json!({"metadata": {"labels": {NODE_LABEL: node}, "annotations": {PROVISIONED_BY: PROVISIONER},
                "finalizers": finalizers}, "spec": {"local": {"path": path}}})
        };
        let old = volume("n", &["kubernetes.io/pv-protection"], "/v");
        let both = ["kubernetes.io/pv-protection", FINALIZER];
        assert_eq!(volume_problem("n", &volume("n", &both, "/v"), &old), None);
        assert_eq!(volume_problem("n", &old, &volume("n", &both, "/v")), None);
        assert!(volume_problem("m", &volume("n", &both, "/v"), &old).is_some(), "another node");
        assert!(volume_problem("n", &volume("n", &[FINALIZER], "/v"), &old).is_some(), "another finalizer");
        assert!(volume_problem("n", &volume("n", &both, "/etc"), &old).is_some(), "another field");
        let mut by_hand = old.clone();
        by_hand["metadata"]["annotations"] = json!({});
        assert!(volume_problem("n", &by_hand, &by_hand).is_some(), "a volume of an administrator");
    }

    #[test]
    fn tokens_are_bound_to_a_pod_of_the_node() {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"nodeName": "n"}});
        let to = |uid: &str| json!({"kind": "Pod", "name": "p", "uid": uid});
        assert_eq!(check_token("n", &to("u"), Some(&pod)), Ok(&pod));
        assert!(check_token("m", &to("u"), Some(&pod)).unwrap_err().contains("a different node"));
        assert!(check_token("n", &to("v"), Some(&pod)).unwrap_err().contains("does not match"));
        assert!(check_token("n", &to(""), Some(&pod)).unwrap_err().contains("without a uid"));
        assert!(check_token("n", &Value::Null, None).unwrap_err().contains("not bound to a pod"));
    }
}
